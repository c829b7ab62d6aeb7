"""What PPO is told: every hyperparameter with its name from the paper, and what cannot be right about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from recipeline.operations import Schedule

Scheduled = float | Mapping[str, Any]
SCHEDULED = ("learning_rate", "clip", "ent_coef")  # those that may change while training
WIDEST = 512  # of a hidden layer for which the numpy backend is chosen by itself


@dataclass(frozen=True)
class Config:
    """Hyperparameters of PPO (Schulman et al. 2017) and of its published implementation details (Huang et al. 2022).

    policy          mlp | cnn | lstm, or a network of one's own: an object whose `module(observation, outputs)` gives a torch module that
                    turns observations (n, *shape) into outputs (n, outputs) and values (n,)
    hidden          widths of the hidden layers; of mlp the same for policy and value, which share none of them; of cnn those after the
                    convolutions; of lstm a layer of the first width before as many units as the last
    sequence        of lstm: steps through which the gradient goes back
    backend         numpy (multilayer perceptrons only) | torch | auto: numpy where it can and no layer is wider than 512
    device          of the torch backend: cpu | cuda | cuda:0 …
    total_steps     environment steps of the whole training
    n_steps         steps of each environment in a rollout; with n_envs environments it holds n_envs * n_steps transitions
    batch_size      transitions of a minibatch
    epochs          passes over a rollout
    gamma           discount
    gae_lambda      lambda of generalised advantage estimation
    learning_rate   of Adam; clip: of the ratio; ent_coef: weight of the entropy. Each a number or
                    {schedule, start, end, steps, points, warm_up} as in `recipeline.operations.Schedule`, over total_steps
    value_loss      mse: (V - R)^2, or huber: (V - R)^2 / 2 within 1, linear beyond
    value_clip      V stays within so much of its old value; None: not clipped
    target_kl       an update ends after the epoch that moved the policy by more than 1.5 times this; None: never
    normalize_advantage   mean 0 and standard deviation 1 in each minibatch
    reward_normalizer     None | discounted | windowed: what the network learns from; raw rewards are what is reported
    squash          Box actions are tanh of a Gaussian, scaled to the bounds, which must be finite; else they are clipped to them
    log_std         of the Gaussian before training
    max_nonfinite   transitions with a NaN or infinite reward or observation that are dropped before training stops
    """

    policy: Any = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    sequence: int = 16
    activation: str = "tanh"
    backend: str = "auto"
    device: str = "cpu"
    total_steps: int = 100_000
    n_steps: int = 2048
    batch_size: int = 64
    epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: Scheduled = 3e-4
    clip: Scheduled = 0.2
    ent_coef: Scheduled = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    value_loss: str = "mse"
    value_clip: float | None = None
    target_kl: float | None = None
    normalize_advantage: bool = True
    reward_normalizer: str | None = None
    squash: bool = False
    log_std: float = 0.0
    adam_epsilon: float = 1e-5
    max_nonfinite: int = 100

    def __post_init__(self) -> None:
        hidden: Any = self.hidden
        if isinstance(hidden, list):  # as YAML has it
            object.__setattr__(self, "hidden", tuple(hidden))

    def problems(self, n_envs: int | None = None) -> list[tuple[str, str]]:
        """Every mistake as (field, what is wrong and what to do); `n_envs` where it is known."""
        found = [(f.name, text) for f in fields(self) if (text := self._mistake(f.name))]
        wrong = {name for name, _ in found}
        if not wrong & {"policy", "backend"} and self.backend == "numpy" and self.policy != "mlp":
            found.append(("backend", f"numpy computes policy: mlp only, not {self.network}; use backend: torch"))
        if n_envs is not None and not wrong & {"n_steps", "batch_size"} and n_envs * self.n_steps < self.batch_size:
            text = (
                f"a rollout has n_envs * n_steps = {n_envs} * {self.n_steps} = {n_envs * self.n_steps} transitions, fewer than "
                f"batch_size {self.batch_size}; make n_steps at least {math.ceil(self.batch_size / n_envs)} or batch_size smaller"
            )
            found.append(("batch_size", text))
        return found

    def schedule(self, name: str) -> Schedule:
        """The schedule of one of `SCHEDULED` over the whole training."""
        return Schedule.of(getattr(self, name), total=self.total_steps)

    @property
    def network(self) -> str:
        """What kind of network it is, as a word."""
        return self.policy if isinstance(self.policy, str) else f"{type(self.policy).__module__}.{type(self.policy).__qualname__}"

    def as_json(self) -> dict[str, Any]:
        """Every field; a network of one's own by its name."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "policy": self.network, "hidden": list(self.hidden)}

    def numpy_suffices(self) -> bool:
        """Whether the numpy backend computes this policy."""
        return self.policy == "mlp" and (self.backend == "numpy" or (self.backend == "auto" and max(self.hidden) <= WIDEST))

    def _mistake(self, name: str) -> str | None:
        value = getattr(self, name)
        match name:
            case "policy":
                known = value in _POLICIES if isinstance(value, str) else callable(getattr(value, "module", None))
                return None if known else _one_of(value, (*_POLICIES, "an object with module(observation, outputs)"))
            case "activation" | "backend" | "value_loss" | "reward_normalizer":
                return None if value in _WORDS[name] else _one_of(value, _WORDS[name])
            case "hidden":
                good = isinstance(value, tuple) and value and all(isinstance(w, int) and not isinstance(w, bool) and w > 0 for w in value)
                return None if good else f"{value!r} is not a list of positive widths; say [64, 64]"
            case "total_steps" | "n_steps" | "batch_size" | "epochs" | "sequence" | "max_nonfinite":
                least = 0 if name == "max_nonfinite" else 1
                good = isinstance(value, int) and not isinstance(value, bool) and value >= least
                return None if good else f"{value!r} is not a whole number of at least {least}"
            case "gamma" | "gae_lambda":
                return None if _number(value) and 0 <= value <= 1 else f"{value!r} is not between 0 and 1"
            case "learning_rate" | "clip" | "ent_coef":
                return self._schedule_mistake(name, value)
            case "vf_coef" | "max_grad_norm" | "adam_epsilon":
                lowest_allowed = value >= 0 if name == "vf_coef" and _number(value) else _number(value) and value > 0
                return None if lowest_allowed else f"{value!r} is not a positive number"
            case "value_clip" | "target_kl":
                return None if value is None or (_number(value) and value > 0) else f"{value!r} is neither null nor a positive number"
            case "normalize_advantage" | "squash":
                return None if isinstance(value, bool) else f"{value!r} is neither true nor false"
            case "log_std":
                return None if _number(value) and -20 <= value <= 2 else f"{value!r} is not between -20 and 2"
        return None

    def _schedule_mistake(self, name: str, value: Scheduled) -> str | None:
        if not isinstance(value, Mapping) and not _number(value):
            return f"{value!r} is neither a number nor a schedule"
        try:
            schedule = Schedule.of(value, total=self.total_steps if isinstance(self.total_steps, int) else 1)
        except (TypeError, ValueError) as error:
            return str(error)
        ends = [v for _, v in schedule.points] if schedule.shape == "piecewise" else [schedule.start]
        ends += [schedule.end] if schedule.shape not in ("constant", "piecewise") else []
        if not all(math.isfinite(v) and v >= 0 for v in ends):
            return f"{min(ends)} is negative or not finite; {name} is at least 0"
        return None if max(ends) > 0 or name == "ent_coef" else f"it is 0 throughout; {name} must be positive somewhere"


_POLICIES = ("mlp", "cnn", "lstm")
_WORDS: dict[str, tuple[Any, ...]] = {
    "activation": ("tanh", "relu"),
    "backend": ("numpy", "torch", "auto"),
    "value_loss": ("mse", "huber"),
    "reward_normalizer": (None, "discounted", "windowed"),
}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(value: Any, known: tuple[Any, ...]) -> str:
    return f"{value!r} is not one of {', '.join('null' if k is None else str(k) for k in known)}"
