"""One thread for small matrices: on several, handing out the work costs more than the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

_controllers: list[ThreadpoolController] = []


@contextmanager
def single_threaded() -> Iterator[None]:
    """Linear algebra on one thread inside, on as many as before afterwards. Looking for its libraries is done once per process."""
    if not _controllers:
        _controllers.append(ThreadpoolController())
    with _controllers[0].limit(limits=1):
        yield
