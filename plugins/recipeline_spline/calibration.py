"""How far each quantile is moved so that intervals hold on windows that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recipeline.timeseries.intervals import Conformal, conformal_quantile

Floats = NDArray[np.float64]
BUCKETS = 8


def buckets_of(horizon: int) -> NDArray[np.int64]:
    """(H,) bucket of each step: neighbours share one, so that every bucket has many scores."""
    return np.arange(horizon) * min(horizon, BUCKETS) // horizon


def offsets(actual: Floats, fan: Floats, levels: Sequence[float]) -> Floats:
    """(H, n, Q): what is added to the quantiles.

    Scores are best given in units of how much each window moves, which makes the offsets follow it (locally weighted split
    conformal: Lei et al. 2018, 5.2): a part of the series that is calmer than the calibration windows gets narrower intervals.

    actual (N, H, n), NaN where not observed; fan (N, H, n, Q) of ascending levels. Two levels q and 1 - q are the ends of an
    interval (`Conformal`, CQR); one without a partner is a bound of its own. The point forecast stays where it is.

    Raises DataError when a bucket has too few scores for the outermost level.
    """
    horizon, targets = actual.shape[1:]
    place = buckets_of(horizon)
    moved = np.zeros((horizon, targets, len(levels)))
    partner = {round(level, 9): at for at, level in enumerate(levels)}
    for target in range(targets):
        for at, level in enumerate(levels):
            other = partner.get(round(1 - level, 9))
            if level == 0.5 or (other is not None and level > 0.5):
                continue
            said = fan[:, :, target, at]
            if other is None:
                moved[:, target, at] = _alone(actual[:, :, target], said, level, place)
                continue
            both = Conformal(1 - 2 * level, buckets=place.tolist()).fit(actual[:, :, target], said, fan[:, :, target, other])
            moved[:, target, at], moved[:, target, other] = -both.adjustment[place], both.adjustment[place]
    return moved


def _alone(actual: Floats, said: Floats, level: float, place: NDArray[np.int64]) -> Floats:
    """(H,) amounts that make one bound hold."""
    sign = 1.0 if level > 0.5 else -1.0
    each = [sign * conformal_quantile(sign * (actual - said)[:, place == b], max(level, 1 - level)) for b in range(place[-1] + 1)]
    return np.asarray(each)[place]
