"""PPO as a model of recipeline: what a recipe says becomes a training, the training a policy, the policy files and answers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from recipeline.contracts import Events, FitContext, Route, Selected
from recipeline.errors import Damaged, DataError, Problem, TrainingFailed
from recipeline.schema import InputSchema
from recipeline.stores import files
from recipeline_ppo import training
from recipeline_ppo.checkpoints import read_checkpoint, write_checkpoint
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.episodes import while_training
from recipeline_ppo.history import History
from recipeline_ppo.learner import Learner
from recipeline_ppo.policy import Actions, Policy
from recipeline_ppo.states import StateColumns, States

if TYPE_CHECKING:
    from recipeline_ppo.gymnasium_loader import EnvironmentFactory
    from recipeline_ppo.requests import PolicyRequest
    from recipeline_ppo.training import Operations

POLICY, LAST = "policy", "last_checkpoint"
QUIET = ("checkpoint_saved", "checkpoint_good", "checkpoint_deleted")


class PPO:
    """Proximal policy optimisation (Schulman et al. 2017) that survives the night: checkpoints, resume, rollback.

    Arguments are those of `config.Config`, with the names of the paper; `operations` is {class_path: operations, hyperparameters: …}.
    learning_rate, clip and ent_coef are numbers or {schedule, start, end, steps}; policy is mlp, cnn, lstm or {class_path: …, params: …}
    of an object with `module(observation, outputs)`, whose arguments are its attributes under the same names and fit into JSON.
    """

    extends = ("total_steps",)  # a finished training goes on when this grows

    def __init__(
        self,
        policy: Any = "mlp",
        hidden: list[int] | tuple[int, ...] = (64, 64),
        sequence: int = 16,
        activation: str = "tanh",
        backend: str = "auto",
        device: str = "cpu",
        total_steps: int = 100_000,
        n_steps: int = 2048,
        batch_size: int = 64,
        epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        learning_rate: float | dict[str, Any] = 3e-4,
        clip: float | dict[str, Any] = 0.2,
        ent_coef: float | dict[str, Any] = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        value_loss: str = "mse",
        value_clip: float | None = None,
        target_kl: float | None = None,
        normalize_advantage: bool = True,
        reward_normalizer: str | None = None,
        squash: bool = False,
        log_std: float = 0.0,
        adam_epsilon: float = 1e-5,
        max_nonfinite: int = 100,
        operations: Any = None,
    ) -> None:
        given = dict(locals())
        self.config = Config(**{field.name: given[field.name] for field in fields(Config)})
        self.operations: Operations | None = operations
        self.columns: StateColumns | None = None
        self.history: History | None = None
        self.step = 0
        self._policy: Policy | None = None
        self._checkpoint: Path | None = None  # the whole state at the end of training, for going on from it
        self._drawing = np.random.default_rng()  # of answers that are not deterministic

    @classmethod
    def example(cls) -> dict[str, Any]:
        """For the contract suite: constructor arguments."""
        return {"total_steps": 256, "n_steps": 32, "batch_size": 32, "epochs": 2, "hidden": [8]}

    @classmethod
    def example_data(cls) -> Selected:
        """For the contract suite: the environment it learns in."""
        from recipeline_ppo.gymnasium_loader import GymnasiumLoader

        return Selected(X=GymnasiumLoader("CartPole-v1", n_envs=2).load())

    @classmethod
    def example_rows(cls) -> States:
        """For the contract suite: the states it answers."""
        return States(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), None)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """Every hyperparameter that cannot be right, all at once."""
        return [Problem("bad-value", (name,), text, at="value") for name, text in config_of(params).problems()]

    def expect(self, schema: InputSchema) -> None:
        """The input contract: what a state looks like from outside."""
        self.columns = StateColumns.of(schema.extras["states"])

    def fit(self, X: EnvironmentFactory, y: Any = None, *, context: FitContext) -> Self:
        """Train in the environments that X makes, to exactly total_steps; from the checkpoints in `context.folder` where there are any.

        context.previous  a fitted PPO of the same kind: its training goes on where it ended
        """
        worlds = Environments(X, X.n_envs, max_episode_steps=X.max_episode_steps, max_nonfinite=self.config.max_nonfinite)
        learner = Learner(self.config, worlds, seed=context.seed, normalizer=context.preprocessor)
        folder = context.folder / "training"
        if isinstance(context.previous, PPO):
            self._go_on_from(context.previous, folder)
        done = training.train(
            learner, self.config.total_steps, self.operations, folder, progress=context.progress, events=_Noteworthy(context.events),
            identity={"environment": X.name}, score=None if context.metric is None else while_training(context.metric, X.reward_threshold),
        )  # fmt: skip
        if self.columns is None:  # outside of a pipeline nobody told the contract
            self.columns = StateColumns.unbounded(worlds.observation, worlds.action, masked=worlds.masks is not None)
        self._policy, self.step = learner.policy(), done.step
        self.history = History.of(done.history, done.events)
        if isinstance(context.previous, PPO) and context.previous.history is not None:
            self.history = self.history.after(context.previous.history)
        self._checkpoint = _newest(folder / "checkpoints")
        worlds.close()
        return self

    @property
    def policy(self) -> Policy:
        """The trained policy: answers observations of the environment, by numpy alone."""
        if self._policy is None:
            raise TrainingFailed("this policy is not trained yet", hint="call fit first", slug="not-fitted")
        return self._policy

    def predict(self, X: States) -> NDArray[Any]:
        """The most probable actions (n,) or (n, …) for n states."""
        return self.act(X.observations, X.masks).action

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        rng: np.random.Generator | None = None,
        *,
        memory: NDArray[np.floating[Any]] | None = None,
    ) -> Actions:
        """Actions as the environment takes them, for rows (n, d) as `States` has them.

        memory  (n, k) of a policy that has one (lstm): what the last call gave, zeros where an episode begins; None: all begin
        """
        return self.policy.answer(observations, masks, deterministic, rng if rng is not None else self._drawing, memory=memory)

    def routes(self) -> list[Route]:
        """POST /predict for one observation, in the form of the environment."""
        if self.columns is None:
            return []
        from recipeline_ppo.requests import PolicyAnswer, RememberingAnswer, request_model

        asked = request_model(self.columns, memory=self.policy.memory_width)
        said = RememberingAnswer if self.policy.memory_width else PolicyAnswer
        return [Route("POST", "/predict", asked, said, self.answer, summary="The action for an observation", instead=True)]

    def answer(self, asked: PolicyRequest, version: str = "") -> dict[str, Any]:
        """What POST /predict says: {action, value, log_prob, step, version}, and memory, of a policy that has one."""
        assert self.columns is not None
        states = asked.states(self.columns)
        memory = None if asked.memory is None else np.array([asked.memory], np.float32)
        said = self.act(states.observations, states.masks, asked.deterministic, memory=memory)
        told = {"action": said.action[0].tolist(), "value": float(said.value[0]), "log_prob": float(said.log_prob[0])}
        after = {} if said.memory is None else {"memory": said.memory[0].tolist()}
        return {**told, **after, "step": self.step, "version": version}

    def save(self, folder: Path) -> None:
        """
        policy/           the policy, in the form of a checkpoint without the optimizer: `load_policy` reads it without gymnasium
        training/         updates.parquet, episodes.parquet, events.json
        last_checkpoint/  the whole state at the end, for training further
        model.json        arguments, steps, spaces
        """
        assert self.columns is not None
        policy = self.policy
        info = {"step": self.step, "status": "good", "score": None, "pinned": True}
        write_checkpoint(folder / POLICY, {"arrays": policy.arrays(), "info": policy.info()}, info=info)
        if self.history is not None:
            self.history.save(folder / "training")
        if self._checkpoint is not None:
            kept = read_checkpoint(self._checkpoint)
            write_checkpoint(folder / LAST, kept["state"], identity=kept["identity"], info=info)
        arguments = {field.name: getattr(self.config, field.name) for field in fields(Config)} | {"policy": _told(self.config.policy)}
        files.write_json(folder / "model.json", {"arguments": arguments, "step": self.step, "states": self.columns.info()})

    @classmethod
    def load(cls, folder: Path) -> Self:
        kept = files.read_json(folder / "model.json")
        try:
            model = cls(**{**kept["arguments"], "policy": _network(kept["arguments"]["policy"])})
            model.columns, model.step = StateColumns.of(kept["states"]), int(kept["step"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"model.json is not what was written: {error}", hint="restore the artifact") from None
        model._policy = load_policy(folder / POLICY, network=model.config.policy)
        if (folder / "training").is_dir():
            model.history = History.load(folder / "training")
        if (folder / LAST).is_dir():
            model._checkpoint = folder / LAST
        return model

    def _go_on_from(self, previous: PPO, folder: Path) -> None:
        """Put the last checkpoint of a finished training where this one looks for its own."""
        if previous.step >= self.config.total_steps:
            hint = f"set total_steps above {previous.step}"
            raise DataError(f"that run was trained for {previous.step} steps, this one is to end at {self.config.total_steps}", hint=hint)
        if previous._checkpoint is None:
            raise DataError("that run kept no checkpoint to go on from", hint="train anew, with operations.checkpoint")
        if _newest(folder / "checkpoints") is None:  # else this attempt was interrupted, and has its own already
            kept = read_checkpoint(previous._checkpoint)
            info = {"step": previous.step, "status": "good", "score": None, "pinned": True}
            write_checkpoint(
                folder / "checkpoints" / f"checkpoint_{previous.step:09d}", kept["state"], identity=kept["identity"], info=info
            )


def load_policy(folder: Path, *, network: Any = None) -> Policy:
    """The policy in `parts/model/policy` of an artifact; needs neither gymnasium nor torch.

    network  the object that made it, of a policy with a network of its own
    """
    state = read_checkpoint(folder)["state"]
    return Policy.of(state["arrays"], state["info"], network=network)


def config_of(arguments: Mapping[str, Any]) -> Config:
    """The configuration in the arguments of a recipe, where a network of one's own is {class_path, params} still."""
    known = {field.name for field in fields(Config)}
    given = {name: value for name, value in arguments.items() if name in known}
    if isinstance(given.get("policy"), Mapping):
        given["policy"] = _Written()
    return Config(**given)


class _Noteworthy:
    """Events for the log of the run: a checkpoint every few hundred steps is in the record of the training, and no news."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def emit(self, name: str, /, **fields: Any) -> None:
        if name not in QUIET:
            self._events.emit(name, **fields)


class _Written:
    """Stands for a network that is not built yet."""

    def module(self, observation: Any, outputs: int) -> Any: ...


def _told(policy: Any) -> Any:
    """A kind of network as JSON: its word, or the class and arguments of one's own."""
    if isinstance(policy, str):
        return policy
    kind = type(policy)
    arguments = {name: getattr(policy, name) for name in inspect.signature(kind).parameters}
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "arguments": arguments}


def _network(told: Any) -> Any:
    """What `_told` told. Its module is imported where the run's recipe was assembled, past the allow-list, and never from here."""
    if isinstance(told, str):
        return told
    module, _, name = str(told["class"]).partition(":")
    kind = getattr(sys.modules.get(module), name, None)
    if kind is None:
        hint = "open the run by recipeline.load, or import it first"
        raise DataError(f"the network of this policy is of {module}.{name}, which is not imported", hint=hint, slug="unknown-network")
    return kind(**told["arguments"])


def _newest(checkpoints: Path) -> Path | None:
    found = sorted(checkpoints.glob("checkpoint_*")) if checkpoints.is_dir() else []
    return found[-1] if found else None
