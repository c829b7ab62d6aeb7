"""The fake daemon in a thread of its own, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recipeline_tsfm.fake_tollama import FakeTollama


@contextmanager
def running(**given: Any) -> Iterator[FakeTollama]:
    """A daemon that answers until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    fake = FakeTollama(**given)
    try:
        asyncio.run_coroutine_threadsafe(fake.start(), loop).result()
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
