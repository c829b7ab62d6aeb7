"""Sampling intervals as people write them, as pandas reads them, and as a duration.

tollama hands `freq` to pandas, where "5m" means five months; people who write "5m" mean minutes.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from recipeline.errors import DataError

PATTERN = r"^[1-9]\d*(s|m|min|h|d|D|W)$"
DAY = 86_400
_UNITS = {"s": ("s", 1), "m": ("min", 60), "min": ("min", 60), "h": ("h", 3600), "d": ("D", DAY), "D": ("D", DAY), "W": ("W", 7 * DAY)}
LONGEST = 10 * 366 * DAY  # seconds; beyond ten years it is a mistake, and dates would overflow


@functools.lru_cache(maxsize=256)
def canonical(freq: str) -> str:
    """The same interval in pandas' words: "5m" -> "5min", "1d" -> "1D". DataError for anything else."""
    count, unit, _ = _parsed(freq)
    return f"{count}{unit}"


@functools.lru_cache(maxsize=256)
def seconds(freq: str) -> int:
    """Its length in seconds."""
    count, _, length = _parsed(freq)
    return count * length


def step(freq: str) -> np.timedelta64:
    """Its length as a timedelta64[s]."""
    return np.timedelta64(seconds(freq), "s")


def _parsed(freq: str) -> tuple[int, str, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,8})(s|m|min|h|d|D|W)", freq)
    if found is None or int(found[1]) * _UNITS[found[2]][1] > LONGEST:
        raise DataError(
            f"freq {freq[:40]!r} is no sampling interval", hint="a number and one of s, m, min, h, d, W: 5min, 1h, 1D", slug="bad-freq"
        )
    unit, length = _UNITS[found[2]]
    return int(found[1]), unit, length
