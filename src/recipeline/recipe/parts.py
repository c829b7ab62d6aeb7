"""What the arguments of a recipe are made of: parts, named items and ranges, and how one walks and fills them."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from recipeline.errors import Key, Problem, RecipeError, did_you_mean


class _Missing(enum.Enum):
    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing.MISSING
"""The default of a range that has none; `None` is a default."""

Values: TypeAlias = Mapping[str, Any]
"""Names of ranges to values. A choice that is a part or a list may be given by its label."""


@dataclass(frozen=True)
class PartSpec:
    """A part as a recipe names it.

    role           of the grammar (`loader`, `model`, `splitter` …), or `part` for one inside arguments
    reference      a registered name or a dotted path, as written
    arguments      constructor arguments; see the module's head for what may stand in them
    key            where the part stands in the document
    argument_key   where its arguments stand
    reference_key  where its name stands
    beside         arguments that stand beside the name (`loader.source_uri`)
    """

    role: str
    reference: str
    arguments: Mapping[str, Any]
    key: Key
    argument_key: Key
    reference_key: Key = ()
    beside: frozenset[str] = frozenset()

    def key_of(self, name: str) -> Key:
        """Where the argument `name` stands, or would stand."""
        return (*self.key, name) if name in self.beside else (*self.argument_key, name)

    def parts(self) -> Iterator[PartSpec]:
        """This part and every part inside its arguments, choices of ranges included."""
        yield self
        for value in self.arguments.values():
            yield from _parts(value)

    def ranges(self) -> Iterator[Range]:
        """Every range inside, those of choices after the range that chooses."""
        for value in self.arguments.values():
            yield from _ranges(value)

    def filled(self, values: Values = MappingProxyType({})) -> PartSpec:
        """The part without ranges: each replaced by its value, else its default.

        A range with neither is left out, so that the constructor's own default holds. Where it cannot be left out (a step,
        an item of a list, a choice between parts) the first choice stands in.
        """
        filled = {name: _filled(value, values) for name, value in self.arguments.items()}
        return replace(self, arguments={name: value for name, value in filled.items() if value is not MISSING})


@dataclass(frozen=True)
class Named:
    """An item of a list that scikit-learn wants as a tuple: (name, value), or (name, value, columns).

    value    PartSpec, Range over parts, or the text `passthrough` or `drop`
    columns  MISSING where the recipe names none
    word     `estimator` or `transformer`, as written; `class_path` for {class_path, columns} without a name
    """

    name: str
    value: Any
    columns: Any = MISSING
    key: Key = ()
    word: str = "estimator"

    def tuple_of(self, value: Any, columns: Any = MISSING) -> tuple[Any, ...]:
        """The tuple, with the built object in the place of its spec."""
        return (self.name, value) if columns is MISSING else (self.name, value, columns)


@dataclass(frozen=True)
class Range:
    """A value that tuning looks for.

    name      its path with the names of steps and estimators, never an index: `rf.n_estimators`
    low, high numbers, both included; None for a categorical
    choices   plain values, or PartSpecs that may have ranges of their own (named `<name>.<label>.<argument>`)
    default   the value of trial 0, may lie outside of the range; MISSING where there is none: the constructor's default holds
    required  it stands where nothing can be left out, so without a default the first choice stands in
    """

    type: Literal["int", "float", "categorical"]
    key: Key
    name: str
    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    default: Any = MISSING
    required: bool = False

    @property
    def labels(self) -> tuple[Any, ...]:
        """One scalar for each choice: itself, the short name of a part, the JSON of a list or mapping."""
        labels: list[Any] = []
        for choice in self.choices:
            label = _label(choice)
            same, number = label, 1
            while any(alike(label, other) for other in labels):
                number += 1
                label = f"{same}_{number}"
            labels.append(label)
        return tuple(labels)

    def index_of(self, value: Any) -> int | None:
        """The choice that `value` means: the choice itself or its label. None when there is no such choice."""
        if callable(getattr(value, "item", None)):  # a scalar of numpy
            value = value.item()
        for known in (self.choices, self.labels):
            for index, one in enumerate(known):
                if alike(one, value):
                    return index
        return None

    def choice_of(self, value: Any) -> Any:
        """The choice that a value or label means; RecipeError when there is none."""
        index = self.index_of(value)
        if index is None:
            known = [str(label) for label in self.labels]
            raise RecipeError(
                Problem("bad-value", self.key, f"{value!r} is not a choice of {self.name}", did_you_mean(str(value), known), "value")
            )
        return self.choices[index]

    def pick(self, values: Values) -> Any:
        """The value in force: given, else the default, else MISSING (leave the argument out) or the first choice."""
        if self.name in values:
            value = values[self.name]
            if self.type == "categorical":
                return self.choice_of(value)
            if value is None or isinstance(value, (str, bool)):
                return value
            return int(value) if self.type == "int" else float(value)
        if self.default is not MISSING:
            index = self.index_of(self.default) if self.type == "categorical" else None
            return self.default if index is None else self.choices[index]
        if self.type == "categorical" and (self.required or any(isinstance(choice, PartSpec) for choice in self.choices)):
            return self.choices[0]
        return MISSING


def short(reference: str) -> str:
    """`RandomForestClassifier` of `sklearn.ensemble.RandomForestClassifier`."""
    return re.split(r"[.:]", reference)[-1] or reference


def _label(choice: Any) -> Any:
    if isinstance(choice, PartSpec):
        return short(choice.reference)
    if choice is None or isinstance(choice, (str, bool, int, float)):
        return choice
    return json.dumps(choice, default=str)


def alike(one: Any, other: Any) -> bool:
    """Equal and of one kind: 1, 1.0 and True are three choices."""
    return type(one) is type(other) and bool(one == other)


def _parts(value: Any) -> Iterator[PartSpec]:
    if isinstance(value, PartSpec):
        yield from value.parts()
    else:
        for inner in _inner(value):
            yield from _parts(inner)


def _ranges(value: Any) -> Iterator[Range]:
    if isinstance(value, Range):
        yield value
    if isinstance(value, PartSpec):
        yield from value.ranges()
    else:
        for inner in _inner(value):
            yield from _ranges(inner)


def _inner(value: Any) -> Sequence[Any]:
    if isinstance(value, Named):
        return (value.value, value.columns)
    if isinstance(value, Range):
        return value.choices
    if isinstance(value, Mapping):
        return tuple(value.values())
    return value if isinstance(value, list) else ()


def _filled(value: Any, values: Values) -> Any:
    if isinstance(value, Range):
        picked = value.pick(values)
        return _filled(picked, values) if isinstance(picked, (PartSpec, Mapping, list)) else picked
    if isinstance(value, PartSpec):
        return value.filled(values)
    if isinstance(value, Named):
        return replace(value, value=_filled(value.value, values), columns=_filled(value.columns, values))
    if isinstance(value, Mapping):
        filled = {name: _filled(inner, values) for name, inner in value.items()}
        return {name: inner for name, inner in filled.items() if inner is not MISSING}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return value
