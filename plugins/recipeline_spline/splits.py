"""Windows divided by time: what is trained on ends before what it is stopped by begins, and that before what is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import Damaged, DataError
from recipeline.stores import files
from recipeline.timeseries.frames import text_of
from recipeline_spline.prepared import Prepared

Integers = NDArray[np.int64]
SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Origins (N,) of each side. Labels of `train` lie before `validation_from`, those of `validation` from there on and before
    `test_from`, those of `test` from there on; inputs of the later sides may reach back. A border is None where there is no side."""

    train: Integers
    validation: Integers
    test: Integers
    validation_from: Any = None
    test_from: Any = None

    def __iter__(self) -> Iterator[Integers]:
        return iter((self.train, self.validation, self.test))

    def save(self, folder: Path, fingerprint: str) -> None:
        """split.npz and split.json: rows of the prepared panel, borders, and the hash of the data that they are rows of."""
        with files.atomic_path(folder / "split.npz") as target, target.open("wb") as stream:
            np.savez(stream, train=self.train, validation=self.validation, test=self.test)
        borders = {name: None if (at := getattr(self, name)) is None else text_of(at) for name in ("validation_from", "test_from")}
        files.write_json(folder / "split.json", {**borders, "fingerprint": fingerprint})


def read_split(folder: Path, fingerprint: str) -> Split:
    """The origins that were kept; borders are not read back.

    Raises Damaged where they belong to other data."""
    if files.read_json(folder / "split.json")["fingerprint"] != fingerprint:
        raise Damaged("split.npz belongs to other data", hint="train again", slug="other-data")
    with np.load(folder / "split.npz") as kept:
        return Split(*(kept[name] for name in SIDES))


def split(
    prepared: Prepared,
    lookback: int,
    horizon: int,
    *,
    validation: Any = None,
    test: Any = None,
    min_observed: float | None = None,
    stride: int = 1,
) -> Split:
    """All windows with labels, by time.

    validation, test  the first stamp of that side, or its share of all windows in time order (a float below 1); None: no such side

    Windows whose labels lie on both sides of a border belong to neither. Borders are moments, the same for all series.

    Raises DataError where a side that was asked for is empty.
    """
    origins = prepared.origins(lookback, horizon, future=True, min_observed=min_observed, stride=stride)
    if not len(origins):
        raise DataError("no window has enough observed values", hint="lower min_coverage, or shorten lookback", slug="too-short")
    begin, end = prepared.stamps(origins + 1), prepared.stamps(origins + horizon)
    test_from = _border(test, begin, _share(test))
    validation_from = _border(validation, begin, _share(validation) + _share(test))
    last = np.ones(len(origins), bool) if test_from is None else end < test_from
    sides = {
        "train": last if validation_from is None else last & (end < validation_from),
        "validation": np.zeros(len(origins), bool) if validation_from is None else last & (begin >= validation_from),
        "test": np.zeros(len(origins), bool) if test_from is None else begin >= test_from,
    }
    asked = {"train": True, "validation": validation is not None, "test": test is not None}
    for name in SIDES:
        if asked[name] and not sides[name].any():
            hint = f"move the borders, or shorten lookback ({lookback}) or horizon ({horizon})"
            raise DataError(f"no window is left for {name}", hint=hint, slug="too-short")
    train, held, judged = (origins[sides[name]] for name in SIDES)
    return Split(train, held, judged, validation_from, test_from)


def _share(asked: Any) -> float:
    return float(asked) if isinstance(asked, float) and 0 < asked < 1 else 0.0


def _border(asked: Any, begin: NDArray[Any], share: float) -> Any:
    if asked is None:
        return None
    if _share(asked):
        ordered = np.sort(begin)
        return ordered[min(len(ordered) - 1, int(np.ceil((1 - share) * len(ordered))))]
    if begin.dtype.kind != "M":
        return float(asked)
    import pandas as pd

    stamp = pd.Timestamp(asked)
    return (stamp if stamp.tz is None else stamp.tz_convert("UTC").tz_localize(None)).to_datetime64().astype("datetime64[ns]")
