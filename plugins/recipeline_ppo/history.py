"""What happened while a policy learned, for pictures and tables: one row for each update, one for each episode, and the events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd

UPDATE = (
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "gradient_norm", "explained_variance",
    "learning_rate", "clip", "ent_coef",
)  # fmt: skip
"""Numbers of one update, as `Learner.iterate` gives them."""


@dataclass(frozen=True)
class History:
    """What was learned in the end: what a rollback undid is not in it, the event is.

    updates   one mapping for each: step, and `UPDATE`
    episodes  one mapping for each that ended: step (of the end of its rollout), return, length; raw rewards
    events    one mapping for each: event, mostly with its step, and whatever it says
    """

    updates: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> History:
        """From what `training.train` kept."""
        kept = [row for row in rows if not row.get("undone")]
        updates = [{"step": row["step"], **{name: row[name] for name in UPDATE if name in row}} for row in kept]
        episodes = [
            {"step": row["step"], "return": float(total), "length": int(length)}
            for row in kept
            for total, length in zip(row.get("episode_returns", ()), row.get("episode_lengths", ()), strict=True)
        ]
        return cls(updates, episodes, [dict(event) for event in events])

    def after(self, before: History) -> History:
        """The whole history of a training that went on from another."""
        return History([*before.updates, *self.updates], [*before.episodes, *self.episodes], [*before.events, *self.events])

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(updates, episodes)"""
        import pandas as pd

        return (
            pd.DataFrame(self.updates, columns=["step", *UPDATE]).astype({"step": "int64", **dict.fromkeys(UPDATE, "float64")}),
            pd.DataFrame(self.episodes, columns=["step", "return", "length"]).astype(
                {"step": "int64", "return": "float64", "length": "int64"}
            ),
        )

    def save(self, folder: Path) -> None:
        """updates.parquet, episodes.parquet and events.json."""
        updates, episodes = self.frames()
        files.write_frame(folder / "updates.parquet", updates)
        files.write_frame(folder / "episodes.parquet", episodes)
        files.write_json(folder / "events.json", self.events)

    @classmethod
    def load(cls, folder: Path) -> History:
        updates, episodes = (files.read_frame(folder / f"{name}.parquet").to_dict("records") for name in ("updates", "episodes"))
        return cls(_named(updates), _named(episodes), json.loads((folder / "events.json").read_text(encoding="utf-8")))


def _named(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows]
