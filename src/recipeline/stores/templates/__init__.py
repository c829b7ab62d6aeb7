"""SQL templates: what becomes of `{{ value }}` is decided by its place in the statement, never by its text.

    rendering   the template, with a token of letters wherever a value is to stand (the only user of Jinja here)
    splicing    the statement, parsed with its tokens; each is replaced by a bind, a checked name or a checked number

No value is ever text: the author's statement stays as written, and the gate proves the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipeline.stores.gate import prove
from recipeline.stores.parameters import check_given
from recipeline.stores.templates.rendering import parameters, render
from recipeline.stores.templates.splicing import splice
from recipeline.stores.templates.values import check_parameters

__all__ = ["Compiled", "compile_template", "parameters", "render_only"]


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
    check_given(name, params, rendered.declared)
    text, bound, binds = splice(rendered, dialect)
    return Compiled(prove(text, dialect, bound, binds=binds), bound, rendered.documents)


def render_only(path: Path, params: Mapping[str, Any], *, name: str) -> None:
    """What `compile_template` says of template and parameters, where the dialect is not known: places and proof are left out."""
    check_parameters(params)
    check_given(name, params, render(path, params, name=name).declared)
