"""What one template may cost: a sum of work that is counted, so that the same template is refused on every machine.

Jinja's sandbox says what may be called, not how often or on how much. Loops inside loops, macros that call each other and
texts that double themselves would take hours or all memory; each of them is paid for here before it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from jinja2 import Undefined

from recipeline.errors import Refused

Kind = TypeVar("Kind")

MOST = 30_000_000
"""Units of one rendering: 100,000 values in a loop take about eight million."""

CALL = 50  # a filter, a method
MACRO = 600
STEP = 30  # a turn of a loop
ITEM = 10  # an element that is made or looked at; a character is one unit
FILE = 1_000  # an include


class Budget:
    """The units of one rendering. Every method raises Refused (exit 4) where they are used up."""

    def __init__(self) -> None:
        self.left = MOST

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            hint = "use fewer loops inside loops, and shorter texts and lists"
            raise Refused("the template takes too much work", hint=hint, slug="sql-work")

    def weigh(self, value: Kind) -> Kind:
        """The value itself, its texts and elements paid for however deep they stand and however often they are shared."""
        todo: list[Any] = [value]
        while todo:
            one = todo.pop()
            if isinstance(one, str):
                self.spend(len(one))
            elif isinstance(one, (list, tuple)):
                self.spend(ITEM * len(one))
                todo.extend(one)
            elif isinstance(one, range):
                self.spend(ITEM * len(one))
            elif isinstance(one, Mapping):
                self.spend(ITEM * len(one))
                todo.extend(one.keys())
                todo.extend(one.values())
        return value

    def turns(self, value: Any) -> Any:
        """What a loop goes over: paid for before its first turn, as a list where it has no length."""
        if isinstance(value, (Undefined, list, tuple, range)):
            self.spend(0 if isinstance(value, Undefined) else STEP * len(value))
            return value
        return self._taken(value, STEP)

    def arguments(self, values: Iterable[Any]) -> list[Any]:
        """The arguments of a call, paid for; a generator becomes a list."""
        self.spend(CALL)
        return [self.weigh(self._taken(one, ITEM) if hasattr(one, "__next__") else one) for one in values]

    def foresee(self, name: str, values: list[Any], words: Mapping[str, Any]) -> None:
        """What a filter or method of this name would make of these arguments, before it does."""
        given = [*values, *words.values()]
        match name:
            case "replace":
                text, old, new = (str(one) for one in [*given, "", ""][:3])
                self.spend(len(new) * text.count(old))
            case "join":
                texts = [one for one in given[1:2] if isinstance(one, str)]
                sized = isinstance(given[0], (list, tuple, range, str, Mapping))
                self.spend(sum(map(len, texts)) * (len(given[0]) if sized else 0))
            case "batch" | "slice" | "round":
                for number in given[1:]:
                    if isinstance(number, int):
                        self.spend(ITEM * abs(number))
            case "sum":
                if any(isinstance(one, (list, tuple, str)) for one in [*given[2:3], *([words["start"]] if "start" in words else [])]):
                    raise Refused("a sum of texts or lists is not allowed in an SQL template", slug="sql-template")

    def _taken(self, values: Iterable[Any], each: int) -> list[Any]:
        taken = []
        for one in values:
            self.spend(each)
            taken.append(one)
        return taken
