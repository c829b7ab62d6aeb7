"""Generalised advantage estimation (Schulman et al. 2016, equation 16)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def gae(
    rewards: Floats, values: Floats, next_values: Floats, terminated: NDArray[np.bool_], cut: NDArray[np.bool_], *, gamma: float, lam: float
) -> Floats:
    """A_t = delta_t + gamma lambda A_{t+1}, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    rewards, values   (T, n)
    next_values       (T, n): V of the observation that the step led to; on truncation that of the true final one, not of the next episode
    terminated        (T, n): the state after has no value
    cut               (T, n): the sum ends here, because the episode did (terminated or truncated) or a step is missing
    returns           (T, n): advantages; the returns that the value is taught are advantages + values
    """
    delta = next_values * gamma
    delta[terminated] = 0.0
    delta += rewards
    delta -= values
    decay = np.full_like(delta, gamma * lam)
    decay[cut] = 0.0
    running = delta[-1]
    for t in range(len(delta) - 2, -1, -1):
        decay[t] *= running  # in place: decay[t] is not read again
        running = delta[t]
        running += decay[t]
    return delta
