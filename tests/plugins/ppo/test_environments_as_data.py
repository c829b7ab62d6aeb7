"""Environments by the door of data: the loader, the columns of a state, the sealed episodes, and what is said of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from recipeline import recipe, settings
from recipeline.assemble import assemble, check
from recipeline.contracts import FitContext, Fold, Part, Selected
from recipeline.errors import DataError, RecipeError
from recipeline.pipeline import Pipeline
from recipeline.serve.rows import RowReader
from recipeline_ppo import episodes as episodes_module
from recipeline_ppo.episodes import METRICS, Episodes, EpisodesEvaluator, interval, iqm, play, resampled
from recipeline_ppo.gymnasium_loader import EnvironmentFactory, GymnasiumLoader
from recipeline_ppo.inventory import Inventory
from recipeline_ppo.packing import Packing
from recipeline_ppo.policy import Actions
from recipeline_ppo.states import StateColumns
from recipeline_ppo.task import RandomPolicy, Reinforcement, ReinforcementInterface

TASK = Reinforcement(ReinforcementInterface(task_type="reinforcement"))


def factory(make: Any, **more: Any) -> EnvironmentFactory:
    return EnvironmentFactory(make, "world", **more)


def random_pipeline(data: EnvironmentFactory, tmp_path: Path, seed: int = 0) -> Pipeline:
    schema = TASK.describe(data)
    pipeline = Pipeline(task=TASK, schema=schema, model=RandomPolicy())
    return pipeline.fit(TASK.select(data, schema, targets=True), FitContext(seed, tmp_path))


# --- the loader ------------------------------------------------------------------------------------------------------------


def test_the_loader_brings_the_registered_environment_with_its_limit_and_threshold() -> None:
    """What gymnasium knows of the id, and what the recipe says instead."""
    made = GymnasiumLoader("CartPole-v1", n_envs=3).load()
    assert (made.name, made.n_envs, made.max_episode_steps, made.reward_threshold) == ("CartPole-v1", 3, 500, 475.0)
    assert made.batched is None
    short = GymnasiumLoader("CartPole-v1", max_episode_steps=7, reward_threshold=3.0).load()
    environment = short()
    environment.reset(seed=0)
    length = 0
    for length in range(1, 20):
        *_, terminated, truncated, _ = environment.step(length % 2)
        if terminated or truncated:
            break
    assert (length, truncated, short.reward_threshold) == (7, True, 3.0)
    assert GymnasiumLoader("Pendulum-v1", kwargs={"g": 1.0}).load()().unwrapped.g == 1.0


@pytest.mark.parametrize(
    ("params", "slug", "words"),
    [
        ({"id": "CartPol-v1"}, "unknown-environment", "CartPole-v1"),
        ({"id": "cartpole-v1"}, "unknown-environment", "CartPole-v1"),
        ({"id": "CartPole-v9"}, "unknown-environment", "CartPole-v1"),
        ({"id": "os:system-v1"}, "refused", "environment: {class_path"),
        ({}, "missing-key", "write id"),
        ({"id": "CartPole-v1", "environment": {"class_path": "inventory"}}, "conflict", "leave one"),
        ({"id": "CartPole-v1", "n_envs": 0}, "bad-value", "n_envs 0"),
        ({"id": "CartPole-v1", "kwargs": {"max_episode_steps": 3}}, "unknown-key", "stand beside id"),
    ],
)
def test_mistakes_of_the_loader_are_told_before_anything_is_made(params: dict[str, Any], slug: str, words: str) -> None:
    """Each with what to write instead."""
    (problem,) = GymnasiumLoader.check(params, {}, "local")
    assert problem.slug == slug
    assert words in f"{problem.message} {problem.hint}"


def test_an_environment_that_cannot_be_made_says_why() -> None:
    """A wrong argument is a DataError; a class of something else as well."""
    with pytest.raises(DataError, match=r"cannot be made.*gravitation"):
        GymnasiumLoader("Pendulum-v1", kwargs={"gravitation": 1}).load()
    with pytest.raises(DataError, match="dict is no environment: it has no reset"):
        GymnasiumLoader(environment=dict).load()


def test_an_environment_by_class_path_is_built_anew_for_every_copy(tmp_path: Path) -> None:
    """Through the recipe: a nested part, of which the loader is given a function that builds it."""
    text = """
name: stock
model:
  class_path: gridless
  loader: {name: gymnasium, params: {environment: {class_path: inventory, params: {days: 9, lots: 3}}, n_envs: 2}}
  data_interface: {task_type: reinforcement}
"""
    from recipeline import register, registry

    class Gridless:
        """A model that is never fitted here."""

        def fit(self, X: Any, y: Any = None, *, context: FitContext) -> Any: ...
        def predict(self, X: Any) -> Any: ...
        def act(self, observations: Any, masks: Any = None, deterministic: bool = True, rng: Any = None) -> Any: ...

    register("model", "gridless", Gridless)
    try:
        configured = settings.load(project=tmp_path, environ={})
        made = assemble(recipe.load(text), configured).loader.load()
        first, second = made(), made()
        assert isinstance(first.unwrapped, Inventory)
        assert first.unwrapped is not second.unwrapped
        assert (first.action_space.n, made.max_episode_steps, made.name) == (4, 9, "Inventory")
        wrong = text.replace("lots: 3", "lotts: 3")
        (problem,) = check(recipe.draft(wrong), configured)
        assert (problem.slug, problem.suggestion) == ("unknown-key", "lots")
        (problem,) = check(recipe.draft(text.replace("class_path: inventory", "class_path: os.system")), configured)
        assert problem.exit_code == 4
    finally:
        registry.unregister("model", "gridless")


# --- states as columns -----------------------------------------------------------------------------------------------------


BOX = spaces.Box(np.array([-4.8, -np.inf], np.float32), np.array([4.8, np.inf], np.float32))
MIXED = spaces.Dict(
    {
        "where": spaces.Discrete(4, start=2),
        "seen": spaces.MultiBinary(3),
        "load": spaces.Box(0, 1, (2, 1)),
        "gear": spaces.MultiDiscrete([2, 3]),
    }
)


IMAGE = spaces.Box(0, 255, (3, 2), np.uint8)


@pytest.mark.parametrize(
    "space", [BOX, IMAGE, MIXED, spaces.Discrete(5), spaces.MultiDiscrete([3, 2])], ids=lambda space: type(space).__name__
)
def test_columns_are_the_observation_as_the_network_reads_it(space: Any) -> None:
    """Numbers to a frame to rows: the same as the specification of the spaces writes them."""
    space.seed(3)
    columns = StateColumns.from_spaces(space, spaces.Discrete(2), masked=False)
    drawn = [space.sample() for _ in range(20)]
    numbers = np.stack([columns.numbers(one) for one in drawn])
    schema = columns.schema(numbers[0].tolist(), None)
    frame = schema.conform(pd.DataFrame(numbers, columns=list(columns.names)).astype({c.name: c.dtype for c in schema.columns}))
    expected = columns.observation.rows(np.stack(drawn) if columns.observation.plain else drawn)
    np.testing.assert_array_equal(columns.states(frame).observations, expected)
    assert StateColumns.of(columns.info()).info() == columns.info()
    assert len(columns.states(frame.head(0))) == 0


def test_what_lies_outside_of_the_space_is_named_by_row_and_column() -> None:
    """Bounds are compared in the precision in which they are given: 4.8 itself is inside."""
    columns = StateColumns.from_spaces(BOX, spaces.Discrete(2), masked=True)
    frame = pd.DataFrame(
        {"observation_0": [4.8, 9.0], "observation_1": [1e30, 0.0], "action_mask_0": [True, False], "action_mask_1": [True, False]}
    )
    with pytest.raises(DataError) as caught:
        columns.states(frame)
    assert caught.value.message == (
        "row 1: column 'observation_0': 9 lies outside of [-4.8, 4.8]; row 1: action_mask allows no action (action_mask_0 to action_mask_1)"
    )
    assert len(columns.states(frame.head(1))) == 1


@pytest.mark.parametrize(
    ("space", "mask", "sound"),
    [
        (spaces.MultiDiscrete([2, 3]), [0, 1, 0, 0, 1], True),
        (spaces.MultiDiscrete([2, 3]), [1, 1, 0, 0, 0], False),
        (spaces.MultiBinary(2), [1, 0, 0, 1], True),
        (spaces.MultiBinary(2), [1, 1, 0, 0], False),
    ],
)
def test_each_choice_of_an_action_needs_something_that_is_allowed(space: Any, mask: list[int], sound: bool) -> None:
    """A mask of several choices is looked at choice by choice."""
    columns = StateColumns.from_spaces(spaces.Discrete(1), space, masked=True)
    frame = pd.DataFrame([[0, *map(bool, mask)]], columns=[*columns.names, *columns.masks])
    if sound:
        assert columns.states(frame).masks is not None
    else:
        with pytest.raises(DataError, match="allows no action"):
            columns.states(frame)


def test_the_contract_of_an_environment_is_one_that_the_server_reads(tmp_path: Path) -> None:
    """Its example is accepted as a request and answered, without and with masks, for one and for several numbers of an action."""
    for data, actions in ((GymnasiumLoader("CartPole-v1").load(), 1), (factory(Inventory), 1), (GymnasiumLoader("Pendulum-v1").load(), 1)):
        pipeline = random_pipeline(data, tmp_path)
        assert len(TASK.output(pipeline.schema).values) == actions + 2
        (record,) = pipeline.schema.extras["example"]
        rows = RowReader(pipeline.schema, max_rows=9).read(pd.Series(record).to_json().encode())
        answer = pipeline.predict(rows.frame)
        assert list(answer.columns) == list(TASK.output(pipeline.schema).values)
        assert len(answer) == 1


def test_a_space_that_nobody_can_learn_is_refused_by_its_name() -> None:
    """With what is supported instead."""

    class Sentences(gymnasium.Env):
        observation_space, action_space = spaces.Text(5), spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return "", {}

    with pytest.raises(DataError, match=r"observation space Text is not supported.*use Box") as caught:
        TASK.describe(factory(Sentences))
    assert caught.value.where == "world"
    with pytest.raises(DataError, match="an environment is expected, the loader brought DataFrame"):
        TASK.describe(pd.DataFrame())


# --- which episodes --------------------------------------------------------------------------------------------------------


def test_sealed_and_inner_episodes_come_from_the_seed_and_share_none() -> None:
    """Listed seeds are played as often as asked, each one's episodes together."""
    nothing = Selected(X=None)
    one, same, other = (Episodes(50, random_state=seed).split(nothing, None).folds[0].test for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    (inner,) = Episodes(50, random_state=1).inner(nothing, None, 5)
    assert not set(inner.test) & set(one)
    assert len(set(one)) == 50
    assert Episodes(5, seeds=[3, 9]).split(nothing, None).folds[0].test.tolist() == [3, 3, 3, 9, 9]


@pytest.mark.parametrize(
    ("params", "words"),
    [({"episodes": 0}, "at least 1"), ({"seeds": []}, "no seed"), ({"seeds": [1, 1]}, "twice"), ({"seeds": [-1]}, "whole number"),
     ({"seeds": [1, 2], "episodes": 1}, "at least one episode of each")],
)  # fmt: skip
def test_mistakes_of_the_method_are_told(params: dict[str, Any], words: str) -> None:
    (problem,) = Episodes.check(params, {}, "local")
    assert words in f"{problem.message} {problem.hint}"


# --- playing ---------------------------------------------------------------------------------------------------------------


def by_hand(data: EnvironmentFactory, agent: Any, columns: StateColumns) -> list[tuple[float, int]]:
    """One environment after the other, one state at a time: the second road."""
    found = []
    environment = None
    for number, seed in enumerate(data.seeds):
        first = environment is None or data.seeds[number - 1] != seed
        environment = data() if first else environment
        observation, info = environment.reset(seed=seed) if first else environment.reset()
        total, length, over = 0.0, 0, False
        while not over:
            mask = None if not columns.masked else np.asarray(info["action_mask"])[None].astype(bool)
            action = agent.act(columns.rows(columns.numbers(observation)[None]), mask).action[0]
            observation, reward, terminated, truncated, info = environment.step(action)
            total, length, over = total + float(reward), length + 1, terminated or truncated
        found.append((total, length))
    return found


class Rule:
    """Something that depends on the state, and only on it: the allowed action with the largest product with a fixed vector."""

    def act(self, observations: Any, masks: Any = None, deterministic: bool = True, rng: Any = None) -> Actions:
        width = masks.shape[1] if masks is not None else 2
        score = np.sin(
            np.outer((observations * np.arange(1, observations.shape[1] + 1)).sum(axis=1, dtype=np.float64), np.arange(1, width + 1))
        )
        allowed = np.ones_like(score, dtype=bool) if masks is None else masks
        return Actions(np.where(allowed, score, -np.inf).argmax(axis=1), np.zeros(len(score)), np.zeros(len(score)))


@pytest.mark.parametrize("make", [GymnasiumLoader("CartPole-v1").load(), factory(Packing)], ids=["cartpole", "packing"])
def test_episodes_side_by_side_are_those_played_one_by_one(make: EnvironmentFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns and lengths of every seed, in the order of the seeds, whatever the number of environments at a time."""
    schema = TASK.describe(make)
    columns = StateColumns.of(schema.extras["states"])
    data = make[[5, 5, 8, 13, 13, 13, 21]]
    expected = by_hand(data, Rule(), columns)
    for at_a_time in (64, 2):
        monkeypatch.setattr(episodes_module, "ENVIRONMENTS", at_a_time)
        played = play(data, Rule(), columns, deterministic=True, seed=0)
        assert played["seed"].tolist() == list(data.seeds)
        assert list(zip(played["return"], played["length"], strict=True)) == expected


class Broken(gymnasium.Env):
    """Does one wrong thing in its third step."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, what: str) -> None:
        self.what, self.at = what, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at = 0
        return self.now()

    def now(self) -> Any:
        bad = self.at == 2
        seen = np.array([np.nan, 0.0] if bad and self.what == "observation" else [0.0, 0.0], np.float32)
        return seen, {"action_mask": [0, 0] if bad and self.what == "mask" else [1, 1]}

    def step(self, action: Any) -> Any:
        self.at += 1
        seen, info = self.now()
        return seen, math.inf if self.at == 3 and self.what == "reward" else 1.0, False, False, info


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("observation", "NaN or an infinity in step 2"),
        ("reward", "reward is inf in step 2"),
        ("mask", "allows no action in step 2"),
        ("end", "did not end"),
    ],
)
def test_a_broken_environment_is_named_with_the_step(what: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a plausible return."""
    monkeypatch.setattr(episodes_module, "LONGEST", 50)
    data = factory(lambda: Broken(what))
    pipeline = random_pipeline(data, tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        play(data[[1]], pipeline.model, StateColumns.of(pipeline.schema.extras["states"]), deterministic=True, seed=0)
    assert caught.value.where == "world"


# --- judging ---------------------------------------------------------------------------------------------------------------


def test_the_evaluator_says_what_it_announced(tmp_path: Path) -> None:
    """Every metric, the intervals around them, a row for every episode, pictures."""
    data = GymnasiumLoader("CartPole-v1").load()
    pipeline = random_pipeline(data, tmp_path)
    test = Episodes(30, random_state=2).split(Selected(X=data), TASK).folds[0].test
    names = tuple(metric.name for metric in METRICS)
    part = Part(data[test], Selected(X=data[test]), names, seed=2)
    evaluation = EpisodesEvaluator(validation={"episodes": 30}).judge(pipeline, part)
    assert set(evaluation.metrics) == set(names)
    episodes = evaluation.tables["episodes"]
    assert evaluation.metrics["return_mean"] == episodes["return"].mean()
    assert evaluation.metrics["success_rate"] == 0.0  # nobody balances a pole at random for 475 steps
    intervals = evaluation.tables["intervals"].set_index("metric")
    assert intervals.loc["return_mean", "low"] < evaluation.metrics["return_mean"] < intervals.loc["return_mean", "high"]
    assert evaluation.metrics["return_lcb"] < evaluation.metrics["return_mean"]
    assert "returns" in evaluation.figures
    again = EpisodesEvaluator().judge(random_pipeline(data, tmp_path), part)
    pd.testing.assert_frame_equal(again.tables["episodes"], episodes, check_exact=True)


def test_a_metric_of_training_is_that_of_the_evaluation() -> None:
    """The same functions; nothing where training cannot know it: successes without a threshold, another evaluator's metric."""
    recent, sd = [(float(k), 10 + k) for k in range(12)], np.std(range(12), ddof=1)
    for name, value in (
        ("return_mean", 5.5), ("return_iqm", 5.5), ("return_sd", sd), ("episode_length", 15.5), ("success_rate", 0.25),
    ):  # fmt: skip
        assert episodes_module.while_training(name, 9.0)(recent) == pytest.approx(value)
    assert 3 < episodes_module.while_training("return_lcb", None)(recent) < 5.5  # type: ignore[operator]
    assert episodes_module.while_training("success_rate", None)(recent) is None
    assert episodes_module.while_training("profit", 9.0)(recent) is None


def test_success_that_nobody_defines_is_an_error_with_the_fix(tmp_path: Path) -> None:
    """Not a zero."""
    data = GymnasiumLoader("Pendulum-v1", max_episode_steps=3).load()
    pipeline = random_pipeline(data, tmp_path)
    with pytest.raises(DataError, match="reward_threshold"):
        EpisodesEvaluator().judge(pipeline, Part(data[[1]], Selected(X=data[[1]]), ("success_rate",), detail=False))


@limits(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40))
def test_the_interquartile_mean_is_that_of_the_middle_half(values: list[float]) -> None:
    """Against scipy's trimmed mean, which the paper uses."""
    from scipy.stats import trim_mean

    assert float(iqm(np.array(values))) == pytest.approx(float(trim_mean(values, 0.25)), abs=1e-9)


def test_episodes_of_one_seed_do_not_pass_for_independent_ones() -> None:
    """Between seeds the returns differ, within they do not: the interval is that of 8 values, not of 80."""
    rng = np.random.default_rng(1)
    values, seeds = np.repeat(rng.normal(size=8), 10), np.repeat(np.arange(8), 10)
    clustered, naive = (np.subtract(*interval(values, groups, 0)[::-1]) for groups in (seeds, np.arange(80)))
    assert clustered > 2.5 * naive  # sqrt(10) = 3.2 for 8 seeds that are known exactly
    uneven = resampled(np.array([1.0, 1.0, 5.0]), np.array([0, 0, 1]), 0)
    assert uneven.shape == (episodes_module.RESAMPLES, 3)
    assert set(np.unique(uneven)) == {1.0, 5.0}


# --- environments of our own -----------------------------------------------------------------------------------------------


def test_a_batch_of_warehouses_follows_the_rules_of_each() -> None:
    """The same demand and orders: the same stock, reward and masks, warehouse by warehouse; the limit ends all at once."""
    n, days = 5, 12
    batch = Inventory(days=days).batched(n)
    seen, infos = batch.reset(seed=4)
    singles = [Inventory(days=days) for _ in range(n)]
    for i, single in enumerate(singles):
        single.reset(seed=i)
        single.set_state({**single.get_state(), "stock": [int(batch.stock[i])], "day": [int(batch.day[i])]})
        np.testing.assert_array_equal(single._seen()[0], seen[i])
    rng = np.random.default_rng(0)
    for day in range(1, days + 1):
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in infos["action_mask"]])
        demand_state = batch.random.bit_generator.state
        demand = np.random.default_rng()
        demand.bit_generator.state = demand_state
        drawn = demand.poisson(batch.rules.mean(batch.day))
        seen, rewards, terminated, truncated, infos = batch.step(actions)
        assert not terminated.any()
        assert truncated.all() == (day == days)
        for i, single in enumerate(singles):
            single._np_random = _Drawn(int(drawn[i]))
            observation, reward, *_ = single.step(int(actions[i]))
            np.testing.assert_array_equal(observation, seen[i])
            assert reward == rewards[i]
    some = np.array([False, True, False, False, True])
    before = batch.stock.copy()
    batch.reset(options={"reset_mask": some})
    assert (batch.age == np.where(some, 0, days)).all()
    assert (batch.stock[~some] == before[~some]).all()


class _Drawn:
    """A random generator that knows what is drawn next."""

    def __init__(self, value: int) -> None:
        self.value = value

    def poisson(self, mean: float) -> int:
        return self.value


@pytest.mark.parametrize("make", [Inventory, Packing])
def test_our_environments_keep_to_gymnasium_and_can_be_taken_up_again(make: Any) -> None:
    """gymnasium's own checker; a state that was kept leads to the same future; what the mask forbids is refused."""
    from gymnasium.utils.env_checker import check_env

    if make is Inventory:  # the checker plays without masks: with a lot for every piece of room, whatever it does is allowed
        check_env(Inventory(lots=1, lot=1, capacity=500), skip_render_check=True)
    environment, other = make(), make()
    _, info = environment.reset(seed=7)
    other.reset(seed=99)
    rng = np.random.default_rng(1)

    def trail(one: Any, draws: np.random.Generator) -> list[Any]:
        found = []
        for _ in range(4):
            action = draws.choice(np.flatnonzero(one.action_masks()))
            observation, reward, terminated, _, _ = one.step(action)
            found.append((observation.tolist(), reward))
            if terminated:
                break
        return found

    environment.step(rng.choice(np.flatnonzero(info["action_mask"])))
    other.set_state(environment.get_state())
    assert trail(environment, np.random.default_rng(2)) == trail(other, np.random.default_rng(2))
    while environment.action_masks().all():
        environment.step(len(environment.action_masks()) - 1)
    with pytest.raises(ValueError, match=r"no room|does not fit"):
        environment.step(int(np.flatnonzero(~environment.action_masks())[0]))


def test_packing_ends_when_nothing_fits_and_counts_against_the_greedy_bag() -> None:
    """Playing greedily returns exactly 1."""
    environment = Packing()
    for seed in range(20):
        environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            density = np.where(environment.action_masks(), environment._values / environment._weights, -np.inf)
            _, reward, over, _, _ = environment.step(int(density.argmax()))
            total += reward
        assert total == pytest.approx(1.0)
        assert not environment.action_masks().any()


def test_no_fold_is_a_leak_and_rows_of_an_environment_are_its_episodes() -> None:
    """A fold's `test` takes episodes of the data as it takes rows elsewhere."""
    data = factory(Packing)
    fold = Fold(None, np.array([4, 2]))
    assert Selected(X=data).take(fold.test).X.seeds == (4, 2)


def test_a_model_that_cannot_act_is_refused() -> None:
    """Before an environment is made."""
    from sklearn.linear_model import Ridge

    problem = Reinforcement.suits(Ridge)
    assert problem is not None
    assert "no act" in problem.message
    with pytest.raises(RecipeError):
        GymnasiumLoader("Nothing-v1").load()
