"""Asking again, within a limit of attempts and of total time (the only module that imports stamina)."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar, cast

from recipeline.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("recipeline")

Retryable = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool | float]


class DeadlineExceeded(Unavailable):
    slug = "deadline-exceeded"


class Deadline:
    """A point of monotonic time by which the whole answer is due; handed down from caller to callee, never restarted."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not seconds > 0:
            raise ValueError(f"a deadline lies in the future; got {seconds} s")
        self.seconds, self._clock = seconds, clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._end - self._clock())

    @property
    def expired(self) -> bool:
        return self.remaining() <= 0.0

    def check(self, what: str = "the answer") -> float:
        """The remaining seconds, or DeadlineExceeded when there are none."""
        left = self.remaining()
        if left <= 0.0:
            raise DeadlineExceeded(f"{what} was not there within {self.seconds:g} s")
        return left


def retry(
    on: Retryable,
    *,
    attempts: int = 3,
    timeout: float = 30.0,
    deadline: Deadline | None = None,
    wait_initial: float = 0.1,
    wait_max: float = 5.0,
    wait_jitter: float = 1.0,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator for sync and async functions that calls again after the errors named by `on`.

    on        error classes, or a function `error -> bool | seconds` (seconds to wait: what a Retry-After says).
              `Exception` is refused: retrying what was not understood does harm.
    attempts  calls in all, the first included
    timeout   seconds after which no further attempt begins; with a `deadline`, the sooner of the two.
              A running attempt is not cut off: give the call itself a timeout.
    Waits are `wait_initial * 2**n` plus up to `wait_jitter` seconds, at most `wait_max`. The last error is let through.
    """
    if on in (Exception, BaseException) or (isinstance(on, tuple) and (not on or Exception in on or BaseException in on)):
        raise ValueError("name the errors that deserve a retry; Exception is not one of them")
    if attempts < 1 or not timeout > 0:
        raise ValueError(f"attempts and timeout are positive; got {attempts} and {timeout}")

    def context() -> Any:
        import stamina
        from stamina.instrumentation import set_on_retry_hooks

        set_on_retry_hooks([_say])
        left = timeout if deadline is None else min(timeout, deadline.check())
        # A context, not stamina's decorator: that one hands the arguments of the call to the log, secrets among them.
        return stamina.retry_context(
            on=on, attempts=attempts, timeout=left, wait_initial=wait_initial, wait_max=min(wait_max, left), wait_jitter=wait_jitter
        )

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def again_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async for attempt in context():
                    with attempt:
                        return await function(*args, **kwargs)
                raise AssertionError("the last attempt returns or raises")

            return cast(Callable[P, T], again_async)

        @functools.wraps(function)
        def again(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in context():
                with attempt:
                    return function(*args, **kwargs)
            raise AssertionError("the last attempt returns or raises")

        return again

    return decorate


def _say(details: Any) -> None:
    """One line for each attempt that failed; stamina's own line holds the whole text of the error, objects and all."""
    log.warning("attempt %d failed (%s): again in %.2g s", details.retry_num, _cause(details.caused_by), details.wait_for)


def _cause(error: BaseException) -> str:
    """Why, in a few words: what the system said, where it stands at the end of the chain of errors."""
    inner, seen = error, {id(error)}
    while (deeper := inner.__cause__ or inner.__context__) is not None and id(deeper) not in seen:
        inner = deeper
        seen.add(id(inner))
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
    # Its own text may hold an address with a password; of that, only what the system said is passed on.
    said = re.search(r"\[Errno -?\d+\] ([A-Z][\w ]+)", str(error))
    return said[1] if said else type(error).__name__


def without_waiting() -> AbstractContextManager[None]:
    """The one switch for tests: from here on (or inside `with`), retries do not pause; attempts stay as they are."""
    import stamina

    return cast("AbstractContextManager[None]", stamina.set_testing(True, attempts=1_000_000, cap=True))
