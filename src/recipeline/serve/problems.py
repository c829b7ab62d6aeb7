"""Errors as problem+json (RFC 9457): one form for everything that a client can meet, and nothing in it that is not theirs to see.

    {"type": "urn:recipeline:problem:invalid-rows", "title": "Unprocessable Content", "status": 422,
     "detail": "1 value breaks the input contract", "instance": "/predict", "slug": "invalid-rows", "request_id": "7f3c…",
     "errors": [{"pointer": "/rows/3/f07", "row": 3, "column": "f07", "detail": "a number expected, got text"}]}

A pointer is an RFC 6901 pointer into the rows of the request in the order they were sent, whichever of the three forms the
body had: a single record is row 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json

from recipeline.errors import Conflict, DataError, Exhausted, RecipelineError, Refused, Unavailable, UsageError
from recipeline.logs import mask

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1
GENERIC = "the request could not be answered; the server's log has the reason under this request id"

_LOCATIONS = re.compile(r"\b\w+://\S+|(?<![\w.:/-])(?:[A-Za-z]:[\\/]|/)(?:[\w.@%+-]+[\\/])+[\w.@%+-]*")


class HTTPProblem(Exception):
    """An answer that is not the one asked for.

    slug      kebab-case, stable; the same as on the command line where the same thing went wrong
    errors    one mapping per mistake, each with a `pointer` where it stands in the rows
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail = status, slug, detail
        self.errors, self.headers = tuple(errors), dict(headers or {})

    def body(self, request_id: str, path: str) -> bytes:
        return to_json(
            {
                "type": f"urn:recipeline:problem:{self.slug}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
                "instance": path,
                "slug": self.slug,
                "request_id": request_id,
                **({"errors": self.errors} if self.errors else {}),
            }
        )


def busy(slug: str, detail: str) -> HTTPProblem:
    """503, worth another attempt."""
    return HTTPProblem(503, slug, detail, headers={"retry-after": str(RETRY_SECONDS)})


def of(error: RecipelineError) -> HTTPProblem:
    """What a client sees of an error of ours: its words where they are about the request, nothing of the server's inside else."""
    if isinstance(error, Unavailable | Exhausted):
        return busy(error.slug, "a service behind this one does not answer; try again")
    for kind, status in ((DataError, 422), (UsageError, 400), (Refused, 403), (Conflict, 409)):
        if isinstance(error, kind):
            return HTTPProblem(status, error.slug, public("; ".join(part for part in (error.message, error.hint) if part)))
    return HTTPProblem(500, error.slug, GENERIC)


def public(text: str) -> str:
    """The text without secrets, addresses and absolute paths."""
    return _LOCATIONS.sub("…", mask(text))


def pointer(*steps: str | int) -> str:
    """An RFC 6901 pointer: `("rows", 3, "a/b")` is `/rows/3/a~1b`."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
