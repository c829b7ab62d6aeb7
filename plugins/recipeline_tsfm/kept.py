"""Raw forecasts of one run, kept for its trials and folds: what was asked for once is not asked for again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recipeline.stores import files
from recipeline_tsfm.seams import ForecastAnswer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Raw:
    """A forecast before calibration. path (H, Q); reason why the baseline answered, else empty."""

    path: Floats
    reason: str = ""
    point_only: bool = False

    @classmethod
    def of(cls, answer: ForecastAnswer) -> Raw:
        reason = answer.meta.fallback_reason if answer.meta.fallback_used else ""
        return cls(answer.path, reason, any(warning.startswith("point_only") for warning in answer.meta.warnings))


class Kept:
    """Raw forecasts of one run in append-only files, shared by its trials and folds; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.found: dict[str, Raw] = {}
        for path in sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else ():
            for key, (rows, point_only) in files.read_json(path).items():
                self.found[key] = Raw(np.asarray(rows, dtype=np.float64), point_only=point_only)

    def add(self, raws: Mapping[str, Raw]) -> None:
        """One whole file, named by what it answers; two who ask the same write the same name."""
        if self.folder is None or not raws:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(sorted(raws)).encode()).hexdigest()[:24]
        files.write_json(self.folder / f"{name}.json", {key: [raw.path.tolist(), raw.point_only] for key, raw in raws.items()})
