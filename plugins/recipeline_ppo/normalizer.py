"""Observations on a scale that a network can learn from, learned while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import Damaged
from recipeline.stores import atomic, files


class ObservationNormalizer:
    """(x - mean) / sqrt(variance + epsilon), clipped, with the moments of all observations seen so far (Huang et al. 2022, detail 5).

    An online preprocessor: the learner feeds it row by row, and the policy that comes out has its moments inside.
    The moments of two sets are put together after Chan, Golub and LeVeque 1983.
    """

    online = True

    def __init__(self, clip: float = 10.0, epsilon: float = 1e-8) -> None:
        self.clip, self.epsilon = clip, epsilon
        self.count = 0
        self.mean: NDArray[np.float64] | None = None  # (d,)
        self.square: NDArray[np.float64] | None = None  # (d,) sums of squared deviations from the mean
        self._low: NDArray[np.float32] = np.empty(0, dtype=np.float32)  # the bounds, as rows
        self._high = self._low
        self._refresh()

    def fit(self, X: ArrayLike, y: Any = None) -> ObservationNormalizer:
        """Forget what was seen, and learn from rows (n, d)."""
        self.count, self.mean, self.square = 0, None, None
        self.update(np.asarray(X, dtype=np.float64))
        return self

    def update(self, rows: NDArray[np.floating[Any]]) -> None:
        """Learn from rows (n, d)."""
        n = len(rows)
        known = rows.astype(np.float64)
        mean = np.add.reduce(known, axis=0)
        mean /= n
        deviations = known - mean
        deviations *= deviations
        square = np.add.reduce(deviations, axis=0)
        if self.mean is None or self.square is None:
            self.count, self.mean, self.square = n, mean, square
        else:
            gap = mean - self.mean
            both = self.count + n
            self.mean += gap * (n / both)
            gap *= gap
            gap *= self.count * n / both
            self.square += square
            self.square += gap
            self.count = both
        self._refresh()

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Rows (n, d) on the common scale; as they are, but clipped, while nothing was seen."""
        x = np.asarray(X, dtype=np.float32)
        if self._shift is not None and self._scale is not None:
            x = x - self._shift
            x *= self._scale
            np.maximum(x, self._low, out=x)
            return np.minimum(x, self._high, out=x)
        return np.minimum(np.maximum(x, -self.clip), self.clip)

    def state(self) -> dict[str, Any]:
        """Copies of everything that was learned."""
        kept = {} if self.mean is None or self.square is None else {"mean": self.mean.copy(), "square": self.square.copy()}
        return {"count": self.count, **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean = np.array(state["mean"], dtype=np.float64) if "mean" in state else None
        self.square = np.array(state["square"], dtype=np.float64) if "square" in state else None
        self._refresh()

    def save(self, folder: Path) -> None:
        kept = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in self.state().items()}
        atomic.write_json(Path(folder) / "observation_normalizer.json", {"clip": self.clip, "epsilon": self.epsilon, **kept})

    @classmethod
    def load(cls, folder: Path) -> ObservationNormalizer:
        kept = files.read_json(Path(folder) / "observation_normalizer.json")
        try:
            found = cls(kept["clip"], kept["epsilon"])
            found.restore(kept)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"observation_normalizer.json is not what was written: {error}") from None
        return found

    def _refresh(self) -> None:
        self._shift: NDArray[np.float32] | None = None
        self._scale: NDArray[np.float32] | None = None
        if self.mean is not None and self.square is not None:
            self._shift = self.mean.astype(np.float32)
            if len(self._low) != len(self.mean):
                self._low, self._high = (np.full(len(self.mean), bound, dtype=np.float32) for bound in (-self.clip, self.clip))
            self._scale = (1.0 / np.sqrt(self.square / self.count + self.epsilon)).astype(np.float32)
