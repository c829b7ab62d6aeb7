"""Pictures of a training and of the episodes that judged it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recipeline.contracts import Figure

if TYPE_CHECKING:
    import pandas as pd

    from recipeline_ppo.history import History

BINS = 60  # of the time axis
LOUD = ("rollback", "anomaly", "rollback_refused", "checkpoint_failed", "transitions_dropped", "episodes_restarted", "resumed")
"""Events that a picture shows; the log has them all."""


def of_training(history: History) -> dict[str, Figure]:
    """Learning curve, episode lengths, the schedules in force and how far the policy moved; each with the events on its time axis."""
    updates, episodes = history.frames()
    if not len(updates):
        return {}
    last = int(updates["step"].iloc[-1])
    told = [event for event in history.events if event["event"] in LOUD and "step" in event]
    found: dict[str, Figure] = {}
    if len(episodes):
        caption = f"Training episodes by the step at which they ended: median, and the middle 80 % as a band; {len(episodes):,} episodes."
        found["learning_curve"] = Figure("Return while training", lambda axes: _curve(axes, episodes, "return", last, told), caption)
        found["episode_lengths"] = Figure(
            "Episode length while training", lambda axes: _curve(axes, episodes, "length", last, told), caption
        )
    found["schedules"] = Figure(
        "Schedules",
        lambda axes: _schedules(axes, updates, told),
        "Values in force, each as a share of its largest; the legend says from where to where.",
    )
    found["updates"] = Figure(
        "How far each update moved", lambda axes: _updates(axes, updates, told),
        "Approximate KL divergence (Schulman 2020) and the share of clipped ratios, medians over stretches of training; gaps are zeros.",
    )  # fmt: skip
    found["fit"] = Figure(
        "Entropy and explained variance", lambda axes: _fit(axes, updates, told),
        "How undecided the policy is, in nats (left), and which share of the variance of the returns the value function explains (right).",
    )  # fmt: skip
    return found


def of_episodes(played: pd.DataFrame, level: float) -> dict[str, Figure]:
    """The returns of the evaluation, in order of size."""
    caption = f"{len(played)} episodes, {played['seed'].nunique()} seeds; training saw none of them."
    return {"returns": Figure("Returns of the sealed episodes", lambda axes: _returns(axes, played), caption)}


def bands(steps: NDArray[np.int64], values: NDArray[np.float64], last: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(middles (b,), quantiles 10, 50 and 90 % (3, b)) of values in equal stretches of 0 to `last`; empty ones are left out."""
    count = min(BINS, max(1, len(values) // 5))
    edges = np.linspace(0, last, count + 1)
    which = np.clip(np.digitize(steps, edges[1:-1], right=True), 0, count - 1)
    there = np.unique(which)
    middles = (edges[:-1] + edges[1:])[there] / 2
    quantiles = np.stack([np.quantile(values[which == one], [0.1, 0.5, 0.9]) for one in there], axis=1)
    return middles, quantiles


def _curve(axes: Any, episodes: pd.DataFrame, name: str, last: int, told: Sequence[Mapping[str, Any]]) -> None:
    middles, (low, median, high) = bands(episodes["step"].to_numpy(), episodes[name].to_numpy(np.float64), last)
    axes.fill_between(middles, low, high, alpha=0.25, linewidth=0)
    axes.plot(middles, median, marker="o" if len(middles) == 1 else None)
    _mark(axes, told, last)
    axes.set_ylabel("return" if name == "return" else "steps of an episode")


def _schedules(axes: Any, updates: pd.DataFrame, told: Sequence[Mapping[str, Any]]) -> None:
    kinds = (("learning_rate", "learning rate", "-"), ("clip", "clip", "--"), ("ent_coef", "entropy coefficient", "-."))
    for name, words, style in kinds:  # what falls alike lies one on the other
        values = updates[name].to_numpy(np.float64)
        if np.isfinite(values).all() and values.max() > 0:
            said = f"{values[0]:.3g}" if values[0] == values[-1] else f"{values[0]:.3g} to {values[-1]:.3g}"
            axes.plot(updates["step"], values / values.max(), linestyle=style, label=f"{words}: {said}")
    axes.set_ylim(bottom=0, top=1.05)
    axes.set_ylabel("share of its largest")
    _mark(axes, told, int(updates["step"].iloc[-1]))
    axes.legend()


def _medians(updates: pd.DataFrame, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = updates[np.isfinite(updates[name])]
    if not len(known):
        return np.zeros(0), np.zeros(0)
    middles, quantiles = bands(known["step"].to_numpy(), known[name].to_numpy(np.float64), int(updates["step"].iloc[-1]))
    return middles, quantiles[1]


def _updates(axes: Any, updates: pd.DataFrame, told: Sequence[Mapping[str, Any]]) -> None:
    for name, words in (("approx_kl", "approximate KL (nats)"), ("clip_fraction", "clipped share")):
        steps, values = _medians(updates, name)
        axes.plot(steps, np.where(values > 0, values, np.nan), marker=".", markersize=3, label=words)  # nothing is no point of this axis
    axes.set_yscale("log")
    _mark(axes, told, int(updates["step"].iloc[-1]))
    axes.legend()


def _fit(axes: Any, updates: pd.DataFrame, told: Sequence[Mapping[str, Any]]) -> None:
    line = axes.plot(*_medians(updates, "entropy"), label="entropy")
    axes.set_ylabel("entropy (nats)")
    beside = axes.twinx()
    beside.grid(visible=False)
    beside.plot([], [])  # the second colour of the cycle
    line += beside.plot(*_medians(updates, "explained_variance"), label="explained variance")
    beside.set_ylim(-0.5, 1.05)
    beside.set_ylabel("explained variance")
    beside.spines["right"].set_visible(True)
    _mark(axes, told, int(updates["step"].iloc[-1]))
    axes.legend(line, [one.get_label() for one in line], loc="center right")


def _returns(axes: Any, played: pd.DataFrame) -> None:
    returns = np.sort(played["return"].to_numpy(np.float64))
    share = (np.arange(len(returns)) + 1) / len(returns)
    axes.step(returns, share, where="post")
    axes.axvline(float(returns.mean()), linestyle="--", color="grey", linewidth=1, label=f"mean {returns.mean():.4g}")
    axes.set_xlabel("return")
    axes.set_ylabel("share of episodes at or below")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="best")


def _mark(axes: Any, told: Sequence[Mapping[str, Any]], last: int) -> None:
    """A line for each event, one entry of the legend for each kind."""
    colours = {"rollback": "tab:red", "anomaly": "tab:orange", "rollback_refused": "tab:red"}
    seen: set[str] = set()
    for event in told:
        name = str(event["event"])
        axes.axvline(
            event["step"],
            linestyle=":",
            linewidth=1,
            color=colours.get(name, "grey"),
            label=None if name in seen else name.replace("_", " "),
        )
        seen.add(name)
    axes.set_xlim(0, max(last, 1))
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))
    axes.set_xlabel("environment steps")
    if seen:
        axes.legend()


def _short(step: float) -> str:
    """2500 as 2.5k, 3000000 as 3M: seven digits at every tick run into each other."""
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(step) >= unit:
            return f"{step / unit:g}{sign}"
    return f"{step:g}"
