"""Values of parameters: what may come in, and what each kind is called."""

from __future__ import annotations

import datetime as dt
import math
import re
import types
import unicodedata
from collections.abc import Mapping
from typing import Any

from recipeline.errors import Key, Problem, RecipeError, Refused

MAX_TEXT = 1_000_000  # characters of one text
MAX_DEPTH = 8
MAX_ITEMS = 100_000  # of one list that is emitted
MAX_NAME = 63  # bytes, PostgreSQL's limit

_NAME = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


class Identifier(str):
    """A text that the template says is a name: `{{ x | identifier }}`. Any other filter makes it a text again."""

    __slots__ = ()


def check_parameters(params: Mapping[str, Any]) -> None:
    """All of them, used or not, before anything is rendered. Raises RecipeError naming each by its path."""
    problems: list[Problem] = []
    for name, value in params.items():
        _check(value, ("context_params", str(name)), problems, 1)
    if problems:
        raise RecipeError(problems)


def _check(value: Any, path: Key, problems: list[Problem], depth: int) -> None:
    what = _mistake(value, depth)
    if what:
        problems.append(Problem("sql-value", path, what, at="value"))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check(inner, (*path, str(key)), problems, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check(inner, (*path, index), problems, depth + 1)


def _mistake(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH}"
    match value:
        case bool():
            return ""
        case str():
            return text_mistake(value)
        case int():
            return "" if -(2**63) <= value < 2**63 else "is a number of more than 64 bits"
        case float():
            return "" if math.isfinite(value) else "is not a finite number"
    return ""


def text_mistake(text: str) -> str:
    """What is wrong with a text in any database; empty where nothing is."""
    if len(text) > MAX_TEXT:
        return f"is longer than {MAX_TEXT:,} characters"
    if "\0" in text:
        return "holds a NUL character"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "is not valid Unicode"
    return ""


def kind(value: Any) -> str:
    """text, number, true or false, null, list or name; another kind has no place in a statement."""
    match value:
        case Identifier():
            return "name"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "number"
        case None:
            return "null"
        case list():
            return "list"
    return "another kind"


def plain(value: Any, where: str) -> Any:
    """The value as it is emitted: dates as ISO text, sequences as lists. Raises Refused for what no statement holds."""
    if isinstance(value, (list, tuple, range, types.GeneratorType)):
        items: list[Any] = []
        for item in value:
            if len(items) == MAX_ITEMS:
                raise Refused(f"a list has more than {MAX_ITEMS:,} items", slug="sql-value", where=where)
            items.append(_scalar(item, where))
        return items
    return _scalar(value, where)


def _scalar(value: Any, where: str) -> Any:
    if isinstance(value, Identifier):
        return value
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, str):
        value = str.__str__(value)
    if not (value is None or isinstance(value, (str, int, float))):
        hint = "give texts, numbers, true, false, null, or a list of them"
        raise Refused(f"a value of the kind {type(value).__name__} has no place in a query", hint=hint, slug="sql-value", where=where)
    if what := _mistake(value, 0):  # computed in the template
        raise Refused(f"a value {what}", slug="sql-value", where=where)
    return value


def reads_as_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def checked_name(text: str, where: str) -> str:
    """The name in NFC. Raises Refused where it is more than letters, digits and underscores."""
    name = unicodedata.normalize("NFC", text)
    if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAME:
        hint = f"letters, digits and _ only, at most {MAX_NAME} bytes"
        raise Refused("not a plain column or table name", hint=hint, slug="sql-identifier", where=where)
    return name
