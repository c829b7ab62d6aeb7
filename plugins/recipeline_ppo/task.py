"""What reinforcement learning is as a task: an environment instead of rows, an action for a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from recipeline.contracts import FitContext, Output, Selected
from recipeline.errors import DataError, Problem
from recipeline.schema import InputSchema
from recipeline_ppo.episodes import METRICS, mask_of
from recipeline_ppo.gymnasium_loader import EnvironmentFactory
from recipeline_ppo.policy import Actions
from recipeline_ppo.states import StateColumns, States


class ReinforcementInterface(BaseModel):
    """Nothing to say beside the type: spaces, masks and limits are the environment's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_type: Literal["reinforcement"]


class Reinforcement:
    """Learn to act in an environment; at prediction a row is a state, and what is answered an action.

    A model of this task is fitted on an `EnvironmentFactory` and answers
    `act(observations, masks or None, *, deterministic, rng) -> Actions` for `States`, with actions as the environment takes them.
    """

    Interface: ClassVar[type[BaseModel]] = ReinforcementInterface
    metrics = METRICS
    preprocessor = None  # a policy takes observations as they are; `observation_normalizer` learns with it
    splitter = "episodes"
    evaluator = "episodes_evaluator"
    streams: Literal["rows"] = "rows"

    def __init__(self, interface: ReinforcementInterface) -> None:
        self.interface = interface

    @staticmethod
    def agree(model: Mapping[str, Any], loader: Mapping[str, Any]) -> list[Problem]:
        """What only the model's and the environment's arguments together show: a rollout must fill a minibatch."""
        from recipeline_ppo.model import config_of

        n_envs, config = loader.get("n_envs", 1), config_of(model)
        if isinstance(n_envs, bool) or not isinstance(n_envs, int) or n_envs < 1:
            return []
        alone = config.problems()
        together = [one for one in config.problems(n_envs) if one not in alone]
        return [Problem("bad-value", ("model", name), text, at="value") for name, text in together]

    @staticmethod
    def suits(model: type) -> Problem | None:
        """A model must be able to act."""
        if callable(getattr(model, "act", None)):
            return None
        hint = "use class_path: ppo, or a class with act(observations, masks, deterministic, rng)"
        return Problem("wrong-kind", (), f"{model.__name__} cannot act in an environment: it has no act", hint, "value")

    def describe(self, data: Any) -> InputSchema:
        """The contract that an environment sets: columns for its observations, and for its masks where it gives any."""
        if not isinstance(data, EnvironmentFactory):
            hint = "write loader: {name: gymnasium, params: {id: CartPole-v1}}"
            raise DataError(f"an environment is expected, the loader brought {type(data).__name__}", hint=hint, slug="wrong-kind")
        environment = data()
        try:
            observation, info = environment.reset(seed=0)
            mask = mask_of(environment, observation, info)
            columns = StateColumns.from_spaces(environment.observation_space, environment.action_space, masked=mask is not None)
            return columns.schema(columns.numbers(observation).tolist(), mask, environment=data.name)  # type: ignore[arg-type]
        except DataError as error:
            error.where = error.where or data.name
            raise
        finally:
            environment.close()

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        return Selected(X=data if targets else StateColumns.of(schema.extras["states"]).states(data))

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        return model.fit(selected.X, context=context)

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        columns, states = StateColumns.of(schema.extras["states"]), selected.X
        if len(states) == 0:
            shape = (0,) if columns.action.kind == "discrete" else (0, columns.action.width)
            return columns.frame(np.zeros(shape, np.int64), np.zeros(0), np.zeros(0))
        answered = model.act(states.observations, states.masks, deterministic=True)
        return columns.frame(answered.action, answered.value, answered.log_prob)

    def output(self, schema: InputSchema) -> Output:
        return Output(keys=(), values=(*StateColumns.of(schema.extras["states"]).actions, "value", "log_prob"))

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        return {"random": RandomPolicy()}


class RandomPolicy:
    """The agent to beat: every allowed action with the same probability; in a Box evenly between the bounds, or a standard normal."""

    def expect(self, schema: InputSchema) -> None:
        self.columns_ = StateColumns.of(schema.extras["states"])

    def fit(self, X: Any, y: Any = None, *, context: FitContext) -> RandomPolicy:
        self.rng_ = np.random.default_rng([context.seed, 5])
        return self

    def predict(self, X: States) -> Any:
        return self.act(X.observations, X.masks).action

    def act(self, observations: Any, masks: Any = None, deterministic: bool = True, rng: Any = None) -> Actions:
        """`deterministic` is nothing that this agent can be."""
        rng, n, action = rng or self.rng_, len(observations), self.columns_.action
        value = np.full(n, np.nan)  # it expects nothing
        if action.kind == "box":
            low, high = np.array(action.low), np.array(action.high)
            bounded = np.isfinite(low) & np.isfinite(high)
            drawn = np.where(bounded, rng.uniform(np.where(bounded, low, 0.0), np.where(bounded, high, 1.0), (n, len(low))), 0.0)
            drawn = np.where(bounded, drawn, rng.standard_normal((n, len(low))))
            density = np.where(bounded, -np.log(np.where(bounded, high - low, 1.0)), -0.5 * drawn**2 - 0.5 * np.log(2 * np.pi))
            return Actions(action.native(drawn.astype(np.float32)), value, density.sum(axis=1))
        allowed = np.ones((n, action.mask_width), np.bool_) if masks is None else np.asarray(masks, np.bool_)
        parts, chance = [], np.zeros(n)
        for part in self.columns_.choices():
            here = allowed[:, part]
            parts.append(np.where(here, rng.random(here.shape), -1.0).argmax(axis=1))
            chance -= np.log(here.sum(axis=1))
        return Actions(action.native(parts[0] if action.kind == "discrete" else np.stack(parts, axis=1)), value, chance)
