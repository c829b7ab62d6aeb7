"""The body of POST /predict as a model of its own for every policy: shapes, bounds and masks are checked where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from recipeline_ppo.spaces import Leaf
from recipeline_ppo.states import StateColumns, States


class PolicyRequest(BaseModel):
    """One observation; the fields that a policy wants are added by `request_model`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    observation: Any
    action_mask: Any = None
    memory: Any = None
    deterministic: bool = True

    def states(self, columns: StateColumns) -> States:
        """The observation as the policy reads it, one row."""
        observation = self.observation.model_dump(by_alias=True) if isinstance(self.observation, BaseModel) else self.observation
        mask = None if self.action_mask is None else np.array([self.action_mask], np.bool_)
        return States(columns.rows(columns.numbers(observation)[None]), mask)


class PolicyAnswer(BaseModel):
    """action: a number, or a list for several; value: expected discounted return; step: training steps of the policy."""

    model_config = ConfigDict(protected_namespaces=())

    action: Any
    value: float
    log_prob: float
    step: int
    version: str


class RememberingAnswer(PolicyAnswer):
    """memory: to be sent with the next observation of the episode."""

    memory: list[float]


def request_model(columns: StateColumns, *, memory: int = 0) -> type[PolicyRequest]:
    """The request of one policy: its observation with shape and bounds, its mask where the environment has one.

    memory  how many numbers a policy with a memory takes with it from one observation of an episode to the next
    """
    bounds = iter(zip(columns.low, columns.high, strict=True))
    tree: dict[str, Any] = {}
    for leaf in columns.observation.leaves:
        kind = _kind(leaf, bounds)
        place = tree
        for key in leaf.path[:-1]:
            place = place.setdefault(key, {})
        place[leaf.path[-1] if leaf.path else ""] = kind
    observation = tree[""] if "" in tree else _nested("Observation", tree)
    fields: dict[str, Any] = {"observation": (observation, ...)}
    if columns.masked:
        n = columns.action.mask_width
        allowed = Annotated[list[_Flag], Field(min_length=n, max_length=n), AfterValidator(_allows(columns))]
        fields["action_mask"] = (allowed, Field(description="True or 1 where an action is allowed"))
    else:
        said = "this environment has no masks"
        fields["action_mask"] = (_absent(said), Field(default=None, description=said))
    if memory:
        kept = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=memory, max_length=memory)]
        said = "memory of the last answer; left out where an episode begins"
        fields["memory"] = (kept | None, Field(default=None, description=said))
    else:
        said = "this policy has no memory"
        fields["memory"] = (_absent(said), Field(default=None, description=said))
    example = {"observation": _example(columns), **({"action_mask": [True] * columns.action.mask_width} if columns.masked else {})}
    made = create_model("PolicyRequest", __base__=PolicyRequest, **fields)
    made.model_config["json_schema_extra"] = {"examples": [{**example, "deterministic": True}]}
    made.model_rebuild(force=True)
    return made


def _absent(said: str) -> Any:
    """Null, or a word why nothing else can stand here."""

    def check(value: Any) -> Any:
        if value is not None:
            raise PydanticCustomError("absent", f"{said}: leave it out")
        return value

    return Annotated[None, BeforeValidator(check)]


def _flag(value: Any) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise ValueError("true, false, 1 or 0 expected")


_Flag = Annotated[bool | int, AfterValidator(_flag)]


def _allows(columns: StateColumns) -> Any:
    def check(mask: list[bool]) -> list[bool]:
        if not all(any(mask[part]) for part in columns.choices()):
            raise ValueError("the mask allows no action")
        return mask

    return check


def _kind(leaf: Leaf, bounds: Any) -> Any:
    """The type of one array of an observation: nested lists of its shape; bounds of each number are looked at together."""
    shape: Sequence[int] = leaf.shape if leaf.kind != "discrete" else ()
    count = int(np.prod(shape, dtype=np.int64)) if shape else 1
    own = [next(bounds) for _ in range(count)]
    kind: Any = Annotated[float, Field(allow_inf_nan=False)] if leaf.kind == "box" else int
    same = len(set(own)) == 1
    if same:
        low, high = own[0]
        kind = Annotated[kind, AfterValidator(_within(low, high))]
    for size in reversed(shape):
        kind = Annotated[list[kind], Field(min_length=size, max_length=size)]
    return kind if same else Annotated[kind, AfterValidator(_each_within(own, shape))]


def _within(low: float | None, high: float | None) -> Any:
    def check(value: Any) -> Any:
        single = float(np.float32(value))
        if (low is not None and single < np.float32(low)) or (high is not None and single > np.float32(high)) or not np.isfinite(single):
            raise PydanticCustomError("range", f"{value:g} lies outside of {_words(low, high)}")
        return value

    return check


def _each_within(bounds: Sequence[tuple[float | None, float | None]], shape: Sequence[int]) -> Any:
    """Every number within its own bounds; each that is not is told at its place in the array."""
    checks = [_within(low, high) for low, high in bounds]

    def check(values: Any) -> Any:
        found: list[InitErrorDetails] = []
        for number, (value, one) in enumerate(zip(np.asarray(values).reshape(-1).tolist(), checks, strict=True)):
            try:
                one(value)
            except PydanticCustomError as error:
                place = tuple(int(at) for at in np.unravel_index(number, tuple(shape)))
                found.append(InitErrorDetails(type=error, loc=place, input=value))
        if found:
            raise ValidationError.from_exception_data("observation", found)
        return values

    return check


def _words(low: float | None, high: float | None) -> str:
    return f"[{'-inf' if low is None else f'{low:g}'}, {'inf' if high is None else f'{high:g}'}]"


def _nested(name: str, tree: dict[str, Any]) -> Any:
    """A model for a Dict of arrays; fields f0 … with the keys as aliases, because a key may be no field name."""
    fields = {
        f"f{i}": (_nested(f"{name}_{i}", kind) if isinstance(kind, dict) else kind, Field(alias=key))
        for i, (key, kind) in enumerate(tree.items())
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)  # type: ignore[call-overload]


def _example(columns: StateColumns) -> Any:
    """An observation inside of the space: zeros, or the nearest bound."""
    numbers = iter(
        [
            min(max(0.0, -np.inf if low is None else low), np.inf if high is None else high)
            for low, high in zip(columns.low, columns.high, strict=True)
        ]
    )
    found: dict[str, Any] = {}
    for leaf in columns.observation.leaves:
        shape = leaf.shape if leaf.kind != "discrete" else ()
        values = np.array([next(numbers) for _ in range(int(np.prod(shape, dtype=np.int64)) if shape else 1)]).reshape(shape)
        value = values.tolist() if leaf.kind == "box" else values.astype(np.int64).tolist()
        if not leaf.path:
            return value
        place = found
        for key in leaf.path[:-1]:
            place = place.setdefault(key, {})
        place[leaf.path[-1]] = value
    return found
