"""What can go wrong with a tollama daemon, and what each of it means: for the answer, for a retry, for the breaker.

Statuses and texts: the daemon's own, v0.1 to its head of 2026-04. An error body is `{"detail": str | list | {code, message}}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recipeline.errors import Unavailable

MOST_DETAIL = 300  # characters of the daemon's own words that are kept
# A 503 that comes again however often one asks: the daemon's breaker, its timeout, or a library that its runner lacks.
HOPELESS = ("circuit", "breaker", "timed out", "timeout", "missing", "dependenc", "no module", "not installed")


class UpstreamError(Unavailable):
    """The daemon gave no usable answer.

    reason     what `Meta.fallback_reason` says: "upstream_timeout", "upstream_5xx:503", "invalid_payload:length" …
    counts     it speaks against the health of the daemon (the breaker hears it)
    retryable  asking again at once may help
    status     of HTTP, where there was one
    detail     the daemon's own words, bounded; `named` the positions of series that it complained about
    """

    slug = "upstream"

    def __init__(
        self,
        reason: str,
        *,
        counts: bool = True,
        retryable: bool = False,
        status: int | None = None,
        detail: str = "",
        named: tuple[int, ...] = (),
        attempts: int = 0,
    ) -> None:
        self.reason, self.counts, self.retryable, self.status, self.detail, self.named = reason, counts, retryable, status, detail, named
        self.attempts = attempts
        super().__init__(f"tollama: {reason}" + (f" ({detail})" if detail else ""), hint="see `tollama ps` and the daemon's log")

    def again(self) -> UpstreamError:
        """A copy to raise: one object raised for many would gather all their tracebacks."""
        rest: dict[str, Any] = {"status": self.status, "detail": self.detail, "named": self.named, "attempts": self.attempts}
        return UpstreamError(self.reason, counts=self.counts, retryable=self.retryable, **rest)

    @property
    def kind(self) -> str:
        """The reason without its particulars: one of a fixed few."""
        return self.reason.partition(":")[0]


def timeout() -> UpstreamError:
    return UpstreamError("upstream_timeout")


def unreachable() -> UpstreamError:
    return UpstreamError("upstream_unreachable", retryable=True)


def invalid(what: str) -> UpstreamError:
    """200, but not an answer: `what` is a fixed word, never a text of the daemon's."""
    return UpstreamError(f"invalid_payload:{what}")


def open_circuit() -> UpstreamError:
    return UpstreamError("circuit_open", counts=False)


KINDS = (
    "upstream_timeout", "upstream_unreachable", "invalid_payload", "circuit_open", "upstream_5xx", "upstream_rate_limited",
    "model_not_installed", "upstream_route_missing", "upstream_unauthorized", "upstream_license_not_accepted", "upstream_rejected",
    "model_warming_up", "service_stopped", "too_few_points", "baseline_only_liquidity_bucket", "max_gap_exceeded",
)  # fmt: skip
"""Every `UpstreamError.kind` and every reason of a forced baseline: the values of a metric's label."""


def of_status(status: int, body: bytes) -> UpstreamError:
    """The error that an HTTP status other than 200 means."""
    if 300 <= status < 400:
        return invalid("redirect")
    if status < 400:
        return invalid("status")
    words, named = _detail(body)
    lower = words.lower()
    shown = "".join(letter if letter.isprintable() else "?" for letter in words[:MOST_DETAIL])
    rest: dict[str, Any] = {"status": status, "detail": shown, "named": named}
    if status == 404:
        missing = "not installed" in lower or "model" in lower
        return UpstreamError("model_not_installed" if missing else "upstream_route_missing", counts=False, **rest)
    if status in (401, 403):
        return UpstreamError("upstream_unauthorized", counts=False, **rest)
    if status == 409:
        return UpstreamError("upstream_license_not_accepted", counts=False, **rest)
    if status == 429:
        return UpstreamError("upstream_rate_limited", counts=False, retryable=True, **rest)
    if status < 500:
        return UpstreamError(f"upstream_rejected:{status}", counts=False, **rest)
    again = status in (502, 504) or (status == 503 and not any(word in lower for word in HOPELESS))
    return UpstreamError(f"upstream_5xx:{status if status < 600 else 'other'}", retryable=again, **rest)


def _detail(body: bytes) -> tuple[str, tuple[int, ...]]:
    """The daemon's words without the input that it repeats, and the series they name; nothing where the body is no JSON."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return "", ()
    detail = parsed.get("detail") if isinstance(parsed, Mapping) else None
    if isinstance(detail, str):
        return detail, ()
    if isinstance(detail, Mapping):
        return " ".join(str(detail[key]) for key in ("code", "message") if isinstance(detail.get(key), str)), ()
    if not isinstance(detail, list):
        return "", ()
    items = [item for item in detail[:100] if isinstance(item, Mapping)]
    words = "; ".join(dict.fromkeys(item["msg"] for item in items if isinstance(item.get("msg"), str)))
    places = [item.get("loc") for item in items]
    named = {
        place[2]
        for place in places
        if isinstance(place, list) and len(place) > 2 and place[:2] == ["body", "series"] and type(place[2]) is int and place[2] >= 0
    }
    return words, tuple(sorted(named)) if all(isinstance(p, list) and len(p) > 2 and p[1] == "series" for p in places) else ()
