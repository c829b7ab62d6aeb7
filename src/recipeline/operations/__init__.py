"""Callbacks that any training loop can carry: schedules, reward normalisers, checkpoints, anomaly rules and rollback.

The loop calls `OpsHarness.update` once per update and obeys what it is told through `set_hparam` and `set_state`.
Where checkpoints go is the writer's business, who hears of events that of `Events`; both are constructor arguments.
"""

from recipeline.operations.anomalies import (
    RULES,
    Anomaly,
    EntropyCollapse,
    KLBlowup,
    LossSpike,
    NonFinite,
    Relative,
    ReturnDrop,
    Rule,
    Stuck,
    standard_rules,
)  # fmt: skip
from recipeline.operations.checkpoints import CheckpointWriter, InMemory, Rotation, nonfinite_in
from recipeline.operations.harness import EpisodeLog, OpsHarness, Outcome, Rollback, RollbacksExhausted
from recipeline.operations.normalizers import DiscountedNormalizer, WindowedNormalizer
from recipeline.operations.schedules import Schedule

__all__ = [
    "Schedule", "WindowedNormalizer", "DiscountedNormalizer",
    "CheckpointWriter", "InMemory", "Rotation", "nonfinite_in",
    "Rule", "Anomaly", "NonFinite", "LossSpike", "ReturnDrop", "KLBlowup", "EntropyCollapse", "Stuck", "Relative",
    "RULES", "standard_rules",
    "EpisodeLog", "Rollback", "RollbacksExhausted", "Outcome", "OpsHarness",
]  # fmt: skip
