"""Everything that can go wrong, as one tree; the exit code of the command stands beside each branch.

Raise at the place that knows, catch only where something better than stopping can be done.

    RecipelineError
    ├── UsageError           2   wrong use of the command
    ├── RecipeError          3   recipe or configuration invalid: all its problems at once
    ├── MissingLibrary       3   an optional library is not installed
    ├── Refused              4   refused for safety
    ├── DataError            5   the data break their contract
    │   └── UnknownRun       5   no such run
    ├── Unavailable          6   an outside service does not answer; worth a retry
    ├── Exhausted            7   out of disk, memory or time
    ├── Conflict             8   another run is in the way
    ├── Damaged              9   an artifact is not what was written
    └── TrainingFailed      10   the estimator raised, or every trial failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

Key = tuple[str | int, ...]


def dotted(key: Key) -> str:
    """`("model", "estimators", 0, "name")` as a person writes it: `model.estimators[0].name`."""
    text = ""
    for step in key:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else step)
    return text


MOST = 200  # mistakes that are told at once
LONGEST = 2_000  # characters of what one of them says
LONGEST_NAME = 200


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was most likely meant to be, or None when nothing is near."""
    if len(word) > LONGEST_NAME:
        return None
    names = sorted(set(known))
    folded = {name.lower().replace("-", "_"): name for name in names}
    match = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[match[0]] if match else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest name, or the names that exist."""
    names = sorted(set(known))
    near = nearest(word, names)
    if near:
        return f"did you mean {near if near == near.strip() else repr(near)}?"
    if not names:
        return "remove it"
    shown = ", ".join(names[:12])
    return f"use one of {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe or a configuration.

    A part that checks itself knows `slug`, `key`, `message` and `hint`; the engine adds where it stands.
    """

    slug: str  # kebab-case, stable: unknown-key, bad-value, missing-key …
    key: Key  # path of the value, relative to whoever reports it
    message: str  # what is wrong
    hint: str = ""  # what to do about it
    at: str = "key"  # which of the two is underlined: "key" or "value"
    suggestion: str | None = None  # the nearest name, where there is one
    file: str = ""
    line: int = 0  # from 1; 0 while unknown
    column: int = 0
    exit_code: int = 3

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        what = "; ".join(_bounded(part) for part in (self.message, self.hint) if part)
        head = " ".join(part for part in (f"error[{self.slug}]", where) if part)
        name = _bounded(dotted(self.key))
        return ": ".join(part for part in (head, name, what) if part)

    def as_dict(self) -> dict[str, object]:
        """The form of `validate --json`."""
        return {
            "slug": self.slug,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "key": _bounded(dotted(self.key)),
            "message": "; ".join(_bounded(part) for part in (self.message, self.hint) if part),
            "suggestion": self.suggestion,
        }


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


class RecipelineError(Exception):
    """Base of all errors; `str()` of one is the whole line that a user sees."""

    exit_code: ClassVar[int] = 70
    slug: str = "bug"

    def __init__(self, message: str, *, hint: str = "", slug: str = "", where: str = "") -> None:
        self.message, self.hint, self.where = message, hint, where
        self.slug = slug or type(self).slug
        super().__init__(message)

    @property
    def code(self) -> int:
        """Exit code of the command that met this error."""
        return self.exit_code

    def __str__(self) -> str:
        what = "; ".join(_bounded(part) for part in (self.message, self.hint) if part)
        return ": ".join(part for part in (f"error[{self.slug}]", self.where, what) if part)

    def as_dict(self) -> dict[str, object]:
        """The form of `--json` on failure."""
        return {
            "slug": self.slug,
            "message": _bounded(self.message),
            "hint": _bounded(self.hint),
            "where": self.where,
            "exit_code": self.code,
        }


class UsageError(RecipelineError):
    exit_code = 2
    slug = "usage"


class RecipeError(RecipelineError):
    """All the mistakes of a recipe or a configuration, sorted by line."""

    exit_code = 3
    slug = "recipe"

    def __init__(self, problems: Sequence[Problem] | Problem | str, **rest: str) -> None:
        if isinstance(problems, str):
            super().__init__(problems, **rest)
            self.problems: tuple[Problem, ...] = (Problem(self.slug, (), problems, rest.get("hint", "")),)
            return
        listed = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.problems = tuple(sorted(set(listed), key=lambda p: (p.file, p.line, p.column, p.slug, dotted(p.key))))
        first = self.problems[0]
        where = f"{first.file}:{first.line}:{first.column}" if first.line else first.file
        super().__init__(first.message, hint=first.hint, slug=first.slug, where=where)

    @property
    def code(self) -> int:
        """4 where one of the problems is a refusal for safety, else 3."""
        return max(problem.exit_code for problem in self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MOST]]
        if len(self.problems) > MOST:
            lines.append(f"error[too-many]: {len(self.problems) - MOST:,} more mistakes; mend these first")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "errors": [problem.as_dict() for problem in self.problems[:MOST]]}


class MissingLibrary(RecipelineError):
    """An optional library is not there, or cannot be loaded; the message names the extra that brings it.

    unloadable  what the system said when an installed library was loaded
    """

    exit_code = 3
    slug = "missing-library"

    def __init__(self, library: str, extra: str, reason: str = "", *, unloadable: str = "") -> None:
        self.library, self.extra = library, extra
        hint = f"pip install 'recipeline[{extra}]'"
        if unloadable:
            super().__init__(f"{library} cannot be loaded: {unloadable}", hint=f"install that system library; {hint} brings all others")
        else:
            super().__init__(f"{library} is not installed" + (f" ({reason})" if reason else ""), hint=hint)


class Refused(RecipelineError):
    exit_code = 4
    slug = "refused"


class DataError(RecipelineError):
    exit_code = 5
    slug = "data"


class UnknownRun(DataError):
    slug = "unknown-run"


class Unavailable(RecipelineError):
    exit_code = 6
    slug = "unavailable"


class Exhausted(RecipelineError):
    exit_code = 7
    slug = "exhausted"


class Conflict(RecipelineError):
    exit_code = 8
    slug = "conflict"


class Damaged(RecipelineError):
    exit_code = 9
    slug = "damaged"


class TrainingFailed(RecipelineError):
    exit_code = 10
    slug = "training-failed"
