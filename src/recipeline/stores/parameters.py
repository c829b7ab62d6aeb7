"""Parameters of a query: those that were given against those that it knows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from recipeline.errors import Problem, RecipeError, nearest

log = logging.getLogger("recipeline")


def check_given(name: str, given: Iterable[str], declared: Collection[str]) -> None:
    """A parameter that nothing uses is an error where it looks like one that was not given, else a warning.

    name  how messages call what should use them

    Raises RecipeError (3) with every such mistake.
    """
    words = set(given)
    unknown = sorted(words - set(declared))
    problems = []
    for word in unknown:
        meant = nearest(word, sorted(set(declared) - words))
        if meant is not None:
            what = f"{name} has no parameter {word}"
            problems.append(Problem("unknown-parameter", ("context_params", word), what, f"did you mean {meant}?", suggestion=meant))
    if problems:
        raise RecipeError(problems)
    if unknown:
        log.warning("%s does not use the parameters %s", name, ", ".join(unknown))
