"""PPO as a model: its arguments, its files, going on from a finished training, and what it is asked over HTTP."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from pydantic import ValidationError

from plugins.ppo.agents import CARTPOLE
from recipeline import recipe, settings
from recipeline.assemble import check
from recipeline.contracts import FitContext
from recipeline.errors import DataError
from recipeline_ppo.batched import BatchedEnvironments
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.gymnasium_loader import EnvironmentFactory, GymnasiumLoader
from recipeline_ppo.inventory import Inventory
from recipeline_ppo.learner import Learner
from recipeline_ppo.model import PPO, load_policy
from recipeline_ppo.normalizer import ObservationNormalizer
from recipeline_ppo.packing import Packing
from recipeline_ppo.requests import request_model
from recipeline_ppo.states import StateColumns
from recipeline_ppo.task import Reinforcement, ReinforcementInterface

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "epochs": 3, "hidden": [8, 8], "learning_rate": 1e-3}
TASK = Reinforcement(ReinforcementInterface(task_type="reinforcement"))


def world(n_envs: int = 4) -> EnvironmentFactory:
    return GymnasiumLoader("CartPole-v1", n_envs=n_envs).load()


def trained(folder: Path, *, total_steps: int = 512, data: EnvironmentFactory | None = None, previous: Any = None, **more: Any) -> PPO:
    model = PPO(total_steps=total_steps, **{**SMALL, **more})
    found = data or world()
    model.expect(TASK.describe(found))
    folder.mkdir(parents=True, exist_ok=True)
    return model.fit(found, context=FitContext(3, folder, previous=previous, preprocessor=ObservationNormalizer()))


def bits(model: PPO) -> bytes:
    return b"".join(array.tobytes() for _, array in sorted(model.policy.arrays().items()))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- arguments -------------------------------------------------------------------------------------------------------------


def test_its_arguments_are_those_of_the_algorithm() -> None:
    """Every field of the configuration under its name, with its default; nothing else but the operations."""
    parameters = dict(inspect.signature(PPO).parameters)
    assert parameters.pop("operations").default is None
    assert {name: one.default for name, one in parameters.items()} == {one.name: one.default for one in dataclasses.fields(Config)}
    assert PPO(gamma=0.5, hidden=[3]).config == Config(gamma=0.5, hidden=(3,))


def test_all_mistakes_of_a_recipe_are_told_at_once_at_their_lines(tmp_path: Path) -> None:
    """Those of the model, of the environment, of the operations, and the one that only model and loader together show."""
    text = (
        CARTPOLE.replace("n_steps: 32", "n_steps: 8\n    gamma: 1.5\n    clip: -0.2\n    backend: jax")
        .replace("n_envs: 4", "n_envs: 4, max_episode_steps: 0")
        .replace("every_steps: 256", "every_steps: 0")
        .replace("episodes: 10", "episodes: 0")
    )
    problems = check(recipe.draft(text), settings.load(project=tmp_path, environ={}))
    told = {".".join(map(str, problem.key)): problem for problem in problems}
    arguments = "model.hyperparameters"
    assert set(told) == {
        f"{arguments}.gamma", f"{arguments}.clip", f"{arguments}.backend", f"{arguments}.batch_size",
        f"{arguments}.operations.hyperparameters.checkpoint.every_steps", "model.loader.params.max_episode_steps",
        "evaluation.validation.episodes",
    }  # fmt: skip
    assert "n_envs * n_steps = 4 * 8" in told[f"{arguments}.batch_size"].message
    lines = text.splitlines()
    for key, problem in told.items():
        assert key.rpartition(".")[2] in lines[problem.line - 1]


def test_an_unknown_environment_is_told_before_training_with_the_nearest_names(tmp_path: Path) -> None:
    """In the form of every mistake of a recipe."""
    (problem,) = check(recipe.draft(CARTPOLE.replace("CartPole-v1", "CartPoole-v1")), settings.load(project=tmp_path, environ={}))
    assert (problem.slug, problem.key, problem.suggestion) == ("unknown-environment", ("model", "loader", "params", "id"), "CartPole-v1")


def test_what_learns_from_rows_cannot_be_asked_to_act_and_the_other_way_round(tmp_path: Path) -> None:
    """A classifier in an environment, and an agent before a table."""
    configured = settings.load(project=tmp_path, environ={})
    text = "name: x\nmodel:\n  class_path: sklearn.linear_model.Ridge\n" + CARTPOLE[CARTPOLE.index("  loader:") :]
    (problem,) = check(recipe.draft(text.replace("  preprocessor: {name: observation_normalizer}\n", "")), configured)
    assert "cannot act" in problem.message
    with pytest.raises(DataError, match="an environment is expected"):
        TASK.describe(np.zeros(3))


# --- files -----------------------------------------------------------------------------------------------------------------


def test_saved_loaded_and_saved_again_it_is_the_same(tmp_path: Path) -> None:
    """Every file to the byte, and what it answers to the bit; the policy holds nothing of the optimiser."""
    model = trained(tmp_path / "work")
    model.save(tmp_path / "one")
    again = PPO.load(tmp_path / "one")
    again.save(tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert bits(again) == bits(model)
    assert again.step == model.step == 512
    assert again.history is not None
    assert model.history is not None
    assert [len(again.history.updates), again.history.episodes] == [4, model.history.episodes]
    assert not any("adam" in name for name in again.policy.arrays())


def test_a_policy_answers_without_gymnasium_and_torch(tmp_path: Path) -> None:
    """In a process that can import neither: the same answer to the bit, the normaliser's moments included."""
    model = trained(tmp_path / "work")
    model.save(tmp_path / "kept")
    seen = np.array([[0.01, -0.3, 0.02, 0.4]], np.float32)
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("gymnasium", "torch")))
import json, pathlib, numpy as np
from recipeline_ppo.model import load_policy
said = load_policy(pathlib.Path({str(tmp_path / "kept" / "policy")!r})).act(np.array({seen.tolist()}, np.float32))
print(json.dumps([said.action.tolist(), said.value.tolist(), said.log_prob.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = model.act(seen)
    assert json.loads(done.stdout) == [said.action.tolist(), said.value.tolist(), said.log_prob.tolist()]
    assert np.array_equal(load_policy(tmp_path / "kept" / "policy").act(seen).value, said.value)


# --- going on --------------------------------------------------------------------------------------------------------------


def test_a_finished_training_goes_on_to_the_bits_of_one_that_was_never_interrupted(tmp_path: Path) -> None:
    """384 steps, saved, read back, and on to 1024: the policy and the learning curve of 1024 at once."""
    whole = trained(tmp_path / "whole", total_steps=1024)
    trained(tmp_path / "part", total_steps=384).save(tmp_path / "saved")
    further = trained(tmp_path / "further", total_steps=1024, previous=PPO.load(tmp_path / "saved"))
    assert bits(further) == bits(whole)
    assert whole.history is not None
    assert further.history is not None
    assert further.history.updates == whole.history.updates
    assert further.history.episodes == whole.history.episodes
    with pytest.raises(DataError, match="set total_steps above 384"):
        trained(tmp_path / "less", total_steps=300, previous=PPO.load(tmp_path / "saved"))


def test_pruning_is_asked_at_steps_that_do_not_depend_on_the_rollout(tmp_path: Path) -> None:
    """Trials with other rollouts are compared at the same steps."""
    told: dict[int, list[int]] = {}

    class Listening:
        def __init__(self, n_steps: int) -> None:
            self.steps: list[int] = told.setdefault(n_steps, [])

        def report(self, step: int, value: float) -> bool:
            self.steps.append(step)
            return False

        def advance(self, done: int, total: int | None = None, label: str = "") -> None: ...

    for n_steps in (16, 24):
        model = PPO(**{**SMALL, "n_steps": n_steps, "total_steps": 4000})
        context = FitContext(3, tmp_path / str(n_steps), Listening(n_steps))
        context.folder.mkdir()
        model.fit(world(), context=context)
    assert all(step % 200 == 0 for steps in told.values() for step in steps)
    assert set(told[16]) & set(told[24])


# --- in a batch ------------------------------------------------------------------------------------------------------------


def warehouses(n: int = 6) -> EnvironmentFactory:
    return EnvironmentFactory(
        lambda: gymnasium.wrappers.TimeLimit(Inventory(days=10), 10), "Inventory", n, lambda k: Inventory(days=10).batched(k), 10
    )


def environments(factory: EnvironmentFactory, *, max_nonfinite: int = 100) -> Environments:
    return Environments(factory, factory.n_envs, max_episode_steps=factory.max_episode_steps, max_nonfinite=max_nonfinite)


def test_our_warehouses_are_trained_in_a_batch_and_eight_poles_are_not() -> None:
    """The factory offers the one; of the other kind, eight copies cost less one by one."""
    assert isinstance(environments(warehouses()), BatchedEnvironments)
    assert not isinstance(environments(world(8)), BatchedEnvironments)


def test_a_batch_counts_steps_and_episodes_as_copies_do() -> None:
    """Steps are exact at the ragged end; an episode of ten days ends every tenth step, truncated, with its true last observation."""
    worlds = environments(warehouses())
    learner = Learner(Config(n_steps=25, batch_size=50, epochs=1, hidden=(8,)), worlds, seed=1)
    told = learner.iterate(100)
    assert learner.step == 100
    assert told["episode_lengths"] == [10] * 6
    told = learner.iterate(203)
    assert learner.step == 203
    assert set(told["episode_lengths"]) == {10}


def test_a_killed_training_in_a_batch_goes_on_to_the_bit() -> None:
    """State of the warehouses, masks, running returns, random numbers: half, kept, another learner, the other half."""

    def learner() -> Learner:
        return Learner(Config(n_steps=15, batch_size=30, epochs=2, hidden=(8,)), environments(warehouses()), seed=1)

    one, half, other = learner(), learner(), learner()
    whole = [one.iterate() for _ in range(4)]
    for _ in range(2):
        half.iterate()
    kept = half.state()
    json.dumps(kept.info)
    other.iterate()
    assert other.restore(kept)
    rest = [other.iterate() for _ in range(2)]
    assert [told["policy_loss"] for told in whole[2:]] == [told["policy_loss"] for told in rest]
    assert [told["episode_returns"] for told in whole[2:]] == [told["episode_returns"] for told in rest]
    with pytest.raises(DataError, match=r"6 environments, this training a batch of 5.*set n_envs as it was"):
        Learner(Config(n_steps=15, batch_size=30, hidden=(8,)), environments(warehouses(5)), seed=1).restore(kept)


def test_a_nan_from_one_of_a_batch_is_dropped_and_counted() -> None:
    """Its copy begins anew, the others go on; beyond the limit the training stops with the name and the step."""
    data = warehouses()
    worlds = environments(data, max_nonfinite=3)
    assert isinstance(worlds, BatchedEnvironments)
    rules, real = worlds._batch.rules, worlds._batch.rules.step

    def step(stock: Any, ordered: Any, demand: Any, actions: Any) -> Any:
        left, rest, reward = real(stock, ordered, demand, actions)
        return left, rest, np.where(np.arange(6) == 2, np.nan, reward)

    worlds.start(np.random.SeedSequence(0))
    nothing = np.zeros(6, np.int64)
    worlds.step(nothing)
    rules.step = step
    rewards, _, ended, dropped = worlds.step(nothing)
    assert (dropped, worlds.nonfinite, rewards[2], ended[2]) == ([2], 1, 0.0, False)
    assert worlds._lengths.tolist() == [2, 2, 0, 2, 2, 2]
    worlds.step(nothing)
    worlds.step(nothing)
    with pytest.raises(DataError, match="environment 2 gave a reward or observation that is not finite at step"):
        worlds.step(nothing)


# --- requests --------------------------------------------------------------------------------------------------------------


MIXED = spaces.Dict({"where": spaces.Discrete(4, start=2), "seen": spaces.MultiBinary(3), "load": spaces.Box(0, 1, (2, 1))})


def ask(columns: StateColumns, body: Any) -> Any:
    return request_model(columns).model_validate_json(json.dumps(body))


def refused(columns: StateColumns, body: Any) -> list[tuple[Any, ...]]:
    with pytest.raises(ValidationError) as caught:
        ask(columns, body)
    return [error["loc"] for error in caught.value.errors()]


def test_a_request_in_the_form_of_the_environment_is_the_row_that_the_policy_reads() -> None:
    """A Dict as an object, a Box as nested lists, discrete numbers as they are; the first example is such a request."""
    for space in (
        MIXED,
        spaces.Discrete(3),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(np.array([0, -2.0], np.float32), np.array([1, 5.0], np.float32)),
    ):
        columns = StateColumns.from_spaces(space, spaces.Discrete(2), masked=False)
        space.seed(1)
        seen = space.sample()
        plain = {key: np.asarray(value).tolist() for key, value in seen.items()} if isinstance(seen, dict) else np.asarray(seen).tolist()
        asked = ask(columns, {"observation": plain})
        np.testing.assert_array_equal(asked.states(columns).observations, columns.observation.rows([seen]))
        example = request_model(columns).model_json_schema()["examples"][0]
        assert space.contains(_typed(space, ask(columns, example).model_dump(by_alias=True)["observation"]))


def _typed(space: Any, value: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _typed(inner, value[key]) for key, inner in space.spaces.items()}
    return np.asarray(value, dtype=space.dtype)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, ("observation",)),
        ({"observation": [1.0]}, ("observation",)),
        ({"observation": [1.0, "x"]}, ("observation", 1)),
        ({"observation": [9.0, 0.0]}, ("observation", 0)),
        ({"observation": [float("nan"), 0.0]}, ("observation", 0)),
        ({"observation": [1.0, 0.0], "action_mask": [0, 0, 0]}, ("action_mask",)),
        ({"observation": [1.0, 0.0], "action_mask": [1, 1]}, ("action_mask",)),
        ({"observation": [1.0, 0.0], "action_mask": [1, 2, 1]}, ("action_mask", 1)),
        ({"observation": [1.0, 0.0]}, ("action_mask",)),
        ({"observation": [1.0, 0.0], "action_mask": [1, 1, 1], "determinstic": True}, ("determinstic",)),
        ({"observation": [1.0, 0.0], "action_mask": [1, 1, 1], "deterministic": "yes"}, ("deterministic",)),
    ],
)
def test_a_request_that_does_not_fit_is_refused_where_it_is_wrong(body: Any, where: tuple[Any, ...]) -> None:
    """Shape, kind, range, NaN, a mask that allows nothing or is missing, a misspelt key."""
    columns = StateColumns.from_spaces(
        spaces.Box(np.array([-4.8, -np.inf], np.float32), np.array([4.8, np.inf], np.float32)), spaces.Discrete(3), masked=True
    )
    assert any(found[: len(where)] == where for found in refused(columns, body))
    assert ask(columns, {"observation": [1, 0.0], "action_mask": [True, 0, 1]}).states(columns).masks.tolist() == [[True, False, True]]


def test_every_number_out_of_its_range_is_told_at_its_place() -> None:
    """In an array of two dimensions with bounds of their own; what a policy does not have is to be left out, and why."""
    low, high = np.zeros((2, 2), np.float32), np.array([[1, 2], [3, np.inf]], np.float32)
    columns = StateColumns.from_spaces(spaces.Box(low, high), spaces.Discrete(3), masked=False)
    with pytest.raises(ValidationError) as caught:
        ask(columns, {"observation": [[2.0, 2.0], [-1.0, 9.0]], "action_mask": [1, 1, 1], "memory": [0.0]})
    assert {error["loc"]: error["msg"] for error in caught.value.errors()} == {
        ("observation", 0, 0): "2 lies outside of [0, 1]",
        ("observation", 1, 0): "-1 lies outside of [0, 3]",
        ("action_mask",): "this environment has no masks: leave it out",
        ("memory",): "this policy has no memory: leave it out",
    }


def test_a_masked_policy_never_takes_what_is_forbidden(tmp_path: Path) -> None:
    """Also where it is drawn, and where only one action is left; its answer says how probable it was among the allowed ones."""
    data = EnvironmentFactory(Packing, "Packing", 2)
    model = trained(tmp_path, data=data, total_steps=128)
    schema = TASK.describe(data)
    columns = StateColumns.of(schema.extras["states"])
    body = {"observation": [0.5] * 37, "deterministic": False}
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(12) < 0.3
        mask[rng.integers(12)] = True
        said = model.answer(ask(columns, {**body, "action_mask": mask.tolist()}), version="v1")
        assert mask[said["action"]]
        assert said["log_prob"] <= 0
    alone = model.answer(ask(columns, {**body, "action_mask": [False] * 11 + [True]}))
    assert (alone["action"], alone["log_prob"], alone["step"]) == (11, 0.0, 128)
