"""Pictures of forecasts: the fan against what came, error by step, coverage by level, what the residuals still know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.contracts import Figure
from recipeline.timeseries.frames import PREDICTION, STEP, levels_of, quantile_column, text_of
from recipeline.timeseries.intervals import symmetric_pairs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def of_forecasts(joined: pd.DataFrame, past: pd.DataFrame) -> dict[str, Figure]:
    """The pictures of one origin; `past` holds series, step (0 is the origin) and y of what was known."""
    series = joined.columns[0]
    counts = joined.groupby(series, sort=True)["y"].count()
    name = counts.index[int(np.argmax(counts.to_numpy()))]
    levels = levels_of(joined.columns)
    observed = joined[joined["y"].notna()]
    found = {
        "forecast": Figure("Forecast and actual", _fan(joined[joined[series] == name], past[past["series"] == name], levels),
                           f"Series {name}, from the last origin: {text_of(joined['origin'].iloc[0])}."),
        "error_by_step": Figure("Error by step", _by_step(observed), "Mean absolute error of each step ahead, beside the seasonal naive."),
    }  # fmt: skip
    if levels:
        caption = "Share of actual values at or below each quantile; on the diagonal the levels hold."
        found["coverage"] = Figure("Coverage by level", _coverage(observed, levels), caption)
    if joined[STEP].nunique() >= 8:
        caption = "Correlation of the residuals with those so many steps before; between the lines it may be chance."
        found["residuals"] = Figure("Autocorrelation of residuals", _correlation(joined, series), caption)
    return found


def of_all(joined: pd.DataFrame, skill: pd.DataFrame) -> dict[str, Figure]:
    """The pictures of all origins; `joined` as in `of_forecasts`, of every origin, and `skill` the table of that name."""
    observed = joined[joined["y"].notna()]
    levels = levels_of(joined.columns)
    count = joined["origin"].nunique()
    every = f"Of all {count} origins" if count > 1 else "Of the one origin"
    caption = f"{every}: mean absolute error of each step ahead, beside the seasonal naive."
    found = {"error_by_step": Figure("Error by step", _by_step(observed), caption)}
    if levels:
        caption = f"{every}: share of actual values at or below each quantile; on the diagonal the levels hold."
        found["coverage"] = Figure("Coverage by level", _coverage(observed, levels), caption)
    caption = f"{every}: 1 - mae / mae of the rival. Whiskers: where it lies with 95 % probability, had other times been judged."
    found["skill"] = Figure("Skill beside the baselines", _skill(skill), caption)
    return found


def of_training(history: pd.DataFrame) -> Figure:
    """The loss of each epoch; `history` has epoch, train_loss and val_loss."""
    best = int(np.nanargmin(history["val_loss"])) if history["val_loss"].notna().any() else None
    kept = "" if best is None else f" Epoch {history['epoch'].iloc[best]} is kept."
    return Figure("Loss by epoch", _loss(history, best), f"On the training windows and on those held back.{kept}")


def _loss(history: pd.DataFrame, best: int | None) -> Any:
    def draw(axes: Axes) -> None:
        epochs = history["epoch"].to_numpy()
        axes.plot(epochs, history["train_loss"].to_numpy(), color="tab:blue", label="training")
        axes.plot(epochs, history["val_loss"].to_numpy(), color="tab:orange", label="held back")
        if best is not None:
            axes.plot(epochs[best], history["val_loss"].iloc[best], color="tab:orange", marker="o", linestyle="none")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.locator_params(axis="x", integer=True)
        axes.legend()

    return draw


def _skill(table: pd.DataFrame) -> Any:
    def draw(axes: Axes) -> None:
        rows = np.arange(len(table))[::-1]
        known = table["skill"].to_numpy(np.float64)
        axes.barh(rows, np.nan_to_num(known), color="tab:blue", height=0.5, alpha=0.6)
        sides = np.abs(np.stack([known - table["low"].to_numpy(np.float64), table["high"].to_numpy(np.float64) - known]))
        axes.errorbar(known, rows, xerr=sides, fmt="none", ecolor="grey", capsize=3)
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(rows, table["against"].str.replace("_", " ").tolist())
        axes.set_xlabel("skill")

    return draw


def _fan(rows: pd.DataFrame, past: pd.DataFrame, levels: tuple[float, ...]) -> Any:
    def draw(axes: Axes) -> None:
        steps = rows[STEP].to_numpy()
        for low, high, share in symmetric_pairs(levels):
            axes.fill_between(
                steps, rows[quantile_column(levels[low])].to_numpy(), rows[quantile_column(levels[high])].to_numpy(),
                alpha=0.2, color="tab:blue", linewidth=0, label=f"{100 * share:g} %",
            )  # fmt: skip
        axes.plot(past[STEP].to_numpy(), past["y"].to_numpy(), color="grey", label="known")
        axes.plot(steps, rows["y"].to_numpy(), color="tab:orange", marker=".", label="actual")
        axes.plot(steps, rows[PREDICTION].to_numpy(), color="tab:blue", label="forecast")
        axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel("steps from the origin")
        axes.legend()

    return draw


def _by_step(observed: pd.DataFrame) -> Any:
    def draw(axes: Axes) -> None:
        steps = observed[STEP].to_numpy()
        for name, label, colour in ((PREDICTION, "forecast", "tab:blue"), ("naive", "seasonal naive", "grey")):
            error = np.abs(observed["y"].to_numpy() - observed[name].to_numpy())
            known = np.unique(steps)
            axes.plot(known, [error[steps == step].mean() for step in known], marker=".", color=colour, label=label)
        axes.set_xlabel("steps ahead")
        axes.set_ylabel("mean absolute error")
        axes.set_ylim(bottom=0)
        axes.legend()

    return draw


def _coverage(observed: pd.DataFrame, levels: tuple[float, ...]) -> Any:
    def draw(axes: Axes) -> None:
        actual = observed["y"].to_numpy()
        share = [float(np.mean(actual <= observed[quantile_column(level)].to_numpy())) for level in levels]
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.plot(levels, share, marker="o", color="tab:blue")
        axes.set_xlabel("level")
        axes.set_ylabel("share at or below")

    return draw


def _correlation(joined: pd.DataFrame, series: str) -> Any:
    def draw(axes: Axes) -> None:
        lags = np.arange(1, min(25, joined[STEP].nunique() - 2))
        residuals = [rows["y"].to_numpy() - rows[PREDICTION].to_numpy() for _, rows in joined.groupby(series)]
        residuals = [one - np.nanmean(one) for one in residuals if not np.isnan(one).all()]
        total = sum(float(np.nansum(one**2)) for one in residuals)
        shared = [sum(float(np.nansum(one[lag:] * one[:-lag])) for one in residuals) / total if total > 0 else 0.0 for lag in lags]
        count = sum(int((~np.isnan(one)).sum()) for one in residuals)
        axes.bar(lags, shared, color="tab:blue", width=0.6)
        for bound in (-2, 2):
            axes.axhline(bound / np.sqrt(count), color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("lag in steps")
        axes.set_ylabel("correlation")

    return draw
