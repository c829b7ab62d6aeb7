"""Environments by the door of data: a loader brings the recipe for making them instead of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recipeline.errors import DataError, MissingLibrary, Problem, RecipeError, nearest

OWN_KEYS = ("id", "max_episode_steps", "disable_env_checker", "render_mode", "vectorization_mode", "num_envs")
"""What `gymnasium.make` takes itself; `kwargs` are for the environment."""


@dataclass(frozen=True)
class EnvironmentFactory:
    """Makes the environment of a recipe, as often as it is called.

    make               options -> gymnasium.Env; the one option is `render_mode`
    name               for messages and the report
    n_envs             how many of them a training steps side by side
    batched            n -> one that steps n copies in a call (see `batched`), where a class offers it; else None. The batches of
                       gymnasium's registry are found by `Environments` itself
    max_episode_steps  after which an episode is truncated; None: never
    reward_threshold   a return from which the environment counts as solved; None where nobody says
    seeds              of the episodes that are to be played; those of an evaluation
    """

    make: Callable[..., Any] = field(repr=False)
    name: str
    n_envs: int = 1
    batched: Callable[[int], Any] | None = field(default=None, repr=False)
    max_episode_steps: int | None = None
    reward_threshold: float | None = None
    seeds: tuple[int, ...] = ()

    def __call__(self, **options: Any) -> Any:
        return self.make(**options)

    def __getitem__(self, seeds: Any) -> EnvironmentFactory:
        """The same environment with these episodes: they are what a splitter seals in the place of rows."""
        return replace(self, seeds=tuple(int(seed) for seed in np.atleast_1d(seeds)))


class GymnasiumLoader:
    """An environment of gymnasium by its id, or any class with its interface.

    id                 as gymnasium.make takes it: CartPole-v1
    environment        in its place {class_path: …, params: …}: a gymnasium.Env, of this or any allowed package
    n_envs             copies that are stepped side by side while training
    max_episode_steps  truncates an episode; None: as the environment was registered
    kwargs             further arguments of the environment behind `id`
    reward_threshold   a return from which an episode is a success; None: as the environment was registered
    """

    factories = ("environment",)  # each copy is built anew

    def __init__(
        self,
        id: str | None = None,  # noqa: A002  # what gymnasium calls it
        environment: Any = None,
        n_envs: int = 1,
        max_episode_steps: int | None = None,
        kwargs: dict[str, Any] | None = None,
        reward_threshold: float | None = None,
    ) -> None:
        self.id, self.environment, self.n_envs, self.max_episode_steps = id, environment, n_envs, max_episode_steps
        self.kwargs: Mapping[str, Any] = kwargs or {}
        self.reward_threshold = reward_threshold

    @classmethod
    def example(cls) -> dict[str, Any]:
        """For the contract suite."""
        return {"id": "CartPole-v1", "n_envs": 2}

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """Neither or both of id and environment, an id that is not registered, numbers out of range."""
        problems = [*_check_numbers(params), *_check_kwargs(params)]
        named, given = params.get("id"), params.get("environment")
        if named is None and given is None:
            problems.append(
                Problem("missing-key", ("id",), "no environment is named", "write id: CartPole-v1, or environment: {class_path: …}")
            )
        elif named is not None and given is not None:
            problems.append(Problem("conflict", ("environment",), "id and environment name two environments", "leave one of them out"))
        elif isinstance(named, str) and (problem := _check_id(named)):
            problems.append(problem)
        elif given is not None and not callable(given) and not isinstance(given, Mapping):
            hint = "write {class_path: …, params: …}; what gymnasium has registered goes by id"
            problems.append(Problem("bad-value", ("environment",), "it is not a class of environments", hint, "value"))
        return problems

    def load(self) -> EnvironmentFactory:
        """The factory; one environment was made and closed to see that it can be.

        Raises MissingLibrary where the environment needs a library that is not there, DataError where it refuses its arguments.
        """
        factory = self._registered() if self.id is not None else self._given()
        made = factory()
        made.close()
        return factory

    def fingerprint(self) -> str:
        """What the environment is, for the identity of a run: not how many copies there are."""
        built = getattr(self.environment, "args", ())  # the part that the factory builds
        what = {"id": self.id, "environment": [repr(one) for one in built[:1]], "kwargs": self.kwargs, "limit": self.max_episode_steps}
        return "environment " + json.dumps(what, sort_keys=True, default=str)

    def _registered(self) -> EnvironmentFactory:
        assert self.id is not None
        if problem := _check_id(self.id):
            raise RecipeError(problem)
        import gymnasium

        spec = gymnasium.spec(self.id)
        limit = self.max_episode_steps if self.max_episode_steps is not None else spec.max_episode_steps

        def make(render_mode: str | None = None) -> Any:
            own = {**self.kwargs, **({} if render_mode is None else {"render_mode": render_mode})}
            if render_mode is not None:
                plain = make()
                _check_render(plain, self.id or "", render_mode)
                plain.close()
            return _making(self.id or "", lambda: gymnasium.make(spec, self.max_episode_steps, disable_env_checker=True, **own))

        threshold = self.reward_threshold if self.reward_threshold is not None else spec.reward_threshold
        return EnvironmentFactory(make, self.id, self.n_envs, None, limit, threshold)

    def _given(self) -> EnvironmentFactory:
        import gymnasium

        build = self.environment
        prototype = _making("environment", build)
        lacking = [name for name in ("reset", "step", "observation_space", "action_space") if not hasattr(prototype, name)]
        if lacking:
            hint = "see gymnasium.Env"
            what = f"{type(prototype).__name__} is no environment: it has no {' and no '.join(lacking)}"
            raise DataError(what, hint=hint, slug="wrong-kind", where="model.loader.environment")
        name = type(prototype).__name__
        limit = self.max_episode_steps if self.max_episode_steps is not None else getattr(prototype, "max_episode_steps", None)
        threshold = self.reward_threshold if self.reward_threshold is not None else getattr(prototype, "reward_threshold", None)
        batched = getattr(prototype, "batched", None)
        prototype.close()

        def make(render_mode: str | None = None) -> Any:
            made = _making(name, build)
            if render_mode is not None:
                _check_render(made, name, render_mode)
                made.render_mode = render_mode
            return gymnasium.wrappers.TimeLimit(made, limit) if limit is not None else made

        def batch(n: int) -> Any:
            return _making(name, lambda: build().batched(n))

        return EnvironmentFactory(make, name, self.n_envs, batch if callable(batched) else None, limit, threshold)


def _check_render(environment: Any, name: str, mode: str) -> None:
    known = list(environment.metadata.get("render_modes", ()))
    if mode not in known:
        what = f"the environment has no render mode {mode}"
        raise DataError(what, hint=f"it has {', '.join(known) or 'none'}", slug="cannot-render", where=name)


def missing_library(name: str, error: Exception) -> MissingLibrary:
    """What an environment lacks, with the extra of gymnasium that brings it, as gymnasium says it."""
    words = str(error).partition("\n")[0]
    found = MissingLibrary(words.partition(" is not installed")[0] or "a library", "ppo", f"environment {name} needs it")
    if extra := re.search(r"gymnasium\[([\w-]+)\]", words):
        found.hint = f"pip install 'gymnasium[{extra[1]}]'"
    return found


def _check_numbers(params: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name, least in (("n_envs", 1), ("max_episode_steps", 1)):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            problems.append(Problem("bad-value", (name,), f"{name} {value} is less than {least}", "", "value"))
    return problems


def _check_kwargs(params: Mapping[str, Any]) -> list[Problem]:
    given = params.get("kwargs")
    if not isinstance(given, Mapping):
        return []
    hint = "they stand beside id: n_envs, max_episode_steps"
    return [
        Problem("unknown-key", ("kwargs", name), f"{name} is not the environment's", hint)
        for name in given
        if name in OWN_KEYS
    ]  # fmt: skip


def _check_id(name: str) -> Problem | None:
    """An id that gymnasium does not know, with the nearest ones; one with a module in it would import whatever it names."""
    import gymnasium

    if ":" in name:
        hint = "name the class: environment: {class_path: …}"
        return Problem("refused", ("id",), f"{name} names a module to import", hint, "value", exit_code=4)
    if name in gymnasium.registry:
        return None
    known = sorted(gymnasium.registry)
    near = nearest(name, known)
    base = name.rpartition("-v")[0] or name
    family = [one for one in known if near and one.rpartition("-v")[0] == near.rpartition("-v")[0]]
    close = list(dict.fromkeys([*([near] if near else []), *family, *_resembling(base, known)]))[:4]
    hint = f"did you mean {' or '.join(close)}?" if close else f"gymnasium knows {', '.join(known[:8])} and {len(known) - 8} more"
    return Problem("unknown-environment", ("id",), f"no environment is registered as {name}", hint, "value", close[0] if close else None)


def _resembling(base: str, known: Sequence[str]) -> list[str]:
    import difflib

    folded = {one.rpartition("-v")[0].lower(): one for one in known}  # the last version of each
    return [folded[word] for word in difflib.get_close_matches(base.lower(), folded, n=3, cutoff=0.6)]


def _making(name: str, make: Callable[[], Any]) -> Any:
    """What an environment says when it cannot be made, as an error of ours."""
    import gymnasium

    try:
        return make()
    except gymnasium.error.DependencyNotInstalled as error:
        raise missing_library(name, error) from error
    except (TypeError, ValueError, gymnasium.error.Error) as error:
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"environment {name} cannot be made: {words}", hint="see its arguments", slug="environment", where="model.loader"
        ) from error
