"""SQL templates: what becomes of `{{ value }}` is decided by its place in the statement, never by its text.

    rendering   the template, with a token of letters wherever a value is to stand (the only user of Jinja here)
    splicing    the statement, parsed with its tokens; each is replaced by a bind, a checked name or a checked number

No value is ever text: the author's statement stays as written, and the gate proves the result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipeline.errors import Problem, RecipeError, nearest
from recipeline.stores.gate import prove
from recipeline.stores.templates.rendering import render
from recipeline.stores.templates.splicing import splice
from recipeline.stores.templates.values import check_parameters

__all__ = ["Compiled", "compile_template"]

log = logging.getLogger("recipeline")


@dataclass(frozen=True)
class Compiled:
    """A statement that is proved to read only, and what is bound to it.

    text       with `:name` for every bind; no value of a parameter stands in it but checked names and whole numbers
    params     name -> value; a list is the content of `IN (:name)`
    documents  file name -> text of the template and of all it includes
    """

    text: str = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)
    documents: Mapping[str, str] = field(repr=False)


def compile_template(path: Path, params: Mapping[str, Any], *, dialect: str, name: str = "") -> Compiled:
    """The statement that the template at `path` makes of `params` in the dialect (sqlglot's name).

    name  how messages call the template

    Raises RecipeError (3) for a template that is no template, a parameter that is missing or misspelt, and values
    that no database has; Refused (4) for everything that `docs/howto/sql-templates.md` says is refused.
    """
    name = name or path.name
    check_parameters(params)
    rendered = render(path, params, name=name)
    _warn_of_undeclared(name, params, rendered.declared)
    text, bound, binds = splice(rendered, dialect)
    return Compiled(prove(text, dialect, bound, binds=binds), bound, rendered.documents)


def _warn_of_undeclared(name: str, params: Mapping[str, Any], declared: frozenset[str]) -> None:
    """A parameter that the template does not know is an error where it looks like one that was not given."""
    unknown = sorted(set(params) - declared)
    problems = []
    for word in unknown:
        meant = nearest(word, declared - set(params))
        if meant is not None:
            what = f"{name} has no parameter {word}"
            problems.append(Problem("unknown-parameter", ("context_params", word), what, f"did you mean {meant}?", suggestion=meant))
    if problems:
        raise RecipeError(problems)
    if unknown:
        log.warning("%s does not use the parameters %s", name, ", ".join(unknown))
