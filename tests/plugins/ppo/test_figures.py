"""Pictures of a training: what they say at a glance is true."""

from __future__ import annotations

import math
import re

import numpy as np

from recipeline.report.pictures import svg
from recipeline_ppo.figures import of_training
from recipeline_ppo.history import History

EVENTS = [{"event": "rollback", "step": 200_000}, {"event": "checkpoint_saved", "step": 100_000}]


def history(**changed: list[float]) -> History:
    n = 12
    steps = np.linspace(0, 400_000, n + 1)[1:].astype(int)
    columns = {
        "learning_rate": [1e-3] * n, "clip": [0.2] * n, "ent_coef": [0.0] * n, "approx_kl": [1e-3] * n, "clip_fraction": [0.1] * n,
        "entropy": [0.6] * n, "explained_variance": [0.5] * n, "policy_loss": [0.0] * n, "value_loss": [1.0] * n,
        "gradient_norm": [1.0] * n, "epochs": [4] * n, "nonfinite": [0] * n, **changed,
    }  # fmt: skip
    rows = [
        {
            "update": k + 1,
            "step": int(steps[k]),
            "episode_returns": [float(k)],
            "episode_lengths": [k + 1],
            **{name: column[k] for name, column in columns.items()},
        }
        for k in range(n)
    ]
    return History.of(rows, EVENTS)


def labels(name: str, **changed: list[float]) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg(of_training(history(**changed))[name], name))


def test_steps_are_short_and_events_stand_on_the_axis_of_time() -> None:
    """Of 400,000 steps; only what matters at night is marked."""
    for name in ("learning_curve", "episode_lengths", "schedules", "updates", "fit"):
        found = labels(name)
        assert {"0", "100k", "400k"} <= set(found)
        assert not [one for one in found if "$" in one]
        if name != "fit":
            assert "rollback" in found
        assert "checkpoint saved" not in found
    assert "learning rate: 0.001" in labels("schedules")


def test_zeros_on_a_logarithmic_axis_are_gaps() -> None:
    """They would stand anywhere one likes."""
    found = labels("updates", clip_fraction=[0.0] * 12)
    assert "1e-06" not in found
    assert "clipped share" in found
    assert "approximate KL (nats)" in labels("updates", approx_kl=[math.nan] * 12)
