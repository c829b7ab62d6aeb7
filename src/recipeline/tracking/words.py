"""What MLflow takes: which keys, how long a value, how many at once."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

from recipeline import logs

T = TypeVar("T")

MODEL = "model"
"""The artifact folder stands under this name among the run's artifacts."""

RECIPE_TAG = "recipeline.recipe"
LOCAL_TAG = "recipeline.local_id"
PUBLISHED_TAG = "recipeline.artifact"
ERROR_TAG = "recipeline.error"
MESSAGE_TAG = "recipeline.message"

LONGEST = {"key": 250, "param": 6000, "tag": 5000}
"""Characters that every MLflow server since 2.8 takes; what is longer is cut, and ends in an ellipsis."""

BATCH = 100  # parameters or tags in one request; metrics could be 1,000


def version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def now() -> int:
    return time.time_ns() // 1_000_000


def flattened(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from flattened(value, name)
        else:
            yield name, value


def name_of(key: object) -> str:
    """A key of the characters that MLflow allows."""
    return cut(re.sub(r"[^\w\-. :/]", "_", str(key)), LONGEST["key"]).strip("/") or "_"


def value_of(value: Any, longest: int) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (list, tuple, dict)) else str(value)
    return cut(logs.mask(text), longest)


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def spell(value: float) -> float | str:
    """JSON has no NaN; `float` reads what stands here instead."""
    return value if math.isfinite(value) else str(value)


def cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value, default=str)


def batches(items: Mapping[str, T]) -> Iterator[dict[str, T]]:
    pairs = list(items.items())
    for begin in range(0, len(pairs), BATCH):
        yield dict(pairs[begin : begin + BATCH])
