"""What the forecasts of all origins say together: errors by step, by series and by origin, skill beside each rival, drift, training.

The rows are those of the table `predictions`, and beside them those of `rivals`: a row per series, origin and step, in one
order; `rivals` holds the point forecast of each, and what scaled errors divide by (`scale`) and skill compares to (`reference`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from recipeline.errors import DataError
from recipeline.timeseries import metrics as of
from recipeline.timeseries.frames import PREDICTION, STEP, levels_of, quantile_column, text_of
from recipeline.timeseries.intervals import symmetric_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

log = logging.getLogger("recipeline")

ORIGIN, REFERENCE = "origin", "reference"
DRAWS = 2_000
LEVEL = 0.95
FEWEST = 3
"""Origins, or series, that are too few to say by drawing from them how sure a skill is."""
SHIFT, SPREAD = 3.0, 3.0
"""How far a mean may lie from that of the history, in its standard deviations, and how many times as wide the values may be."""
RISE = 1.02
"""A validation loss above that many times its best, while the training loss went on falling, is the sign of overfitting."""


# --- errors ------------------------------------------------------------------------------------------------------------


def errors(joined: pd.DataFrame) -> pd.DataFrame:
    """Every metric in all, by step, by series and by origin (where there are several), of what was observed.

    joined   series, origin, step, y, prediction, quantiles, and the helpers scale and naive

    `zeros` are the actual values that mape leaves out; `mae_naive` is that of the seasonal naive forecast, to which skill
    compares. NaN where a metric is undefined. coverage, mean_width and msis are of the widest interval.
    """
    series = joined.columns[list(joined.columns).index(ORIGIN) - 1]
    places, names = [], []
    for column in (ORIGIN, series, STEP):
        code, name = pd.factorize(joined[column], sort=True)
        places.append(code)
        names.append(name)
    shape = tuple(map(len, names))

    def block(values: Any, fill: float = np.nan) -> NDArray[Any]:
        """Values (n, …) of the rows as origins by series by steps."""
        array = np.full((*shape, *np.shape(values)[1:]), fill)
        array[tuple(places)] = values
        return array

    y, said, naive = (block(joined[column].to_numpy(np.float64)) for column in ("y", PREDICTION, "naive"))
    seen = ~np.isnan(y)
    scale = block(joined["scale"].to_numpy(np.float64))
    levels = levels_of(joined.columns)
    fan = block(joined[[quantile_column(level) for level in levels]].to_numpy(np.float64)) if levels else None
    pieces = []
    cuts: list[tuple[str, Any, tuple[int, ...]]] = [
        ("all", [""], (0, 1, 2)),
        ("step", names[2], (0, 1)),
        ("series", names[1], (0, 2)),
    ]
    if shape[0] > 1:
        cuts.append(("origin", names[0], (1, 2)))
    for by, of_what, axis in cuts:
        columns: dict[str, Any] = {"forecasts": seen.sum(axis=axis), "zeros": of.zeros(y, mask=seen, axis=axis)}
        columns |= _errors(y, said, naive, scale, fan, levels, seen, axis)
        label = [text_of(one) for one in of_what] if by == "origin" else list(map(str, of_what))
        pieces.append(pd.DataFrame({"by": by, "of": label, **{name: np.atleast_1d(value) for name, value in columns.items()}}))
    whole = pd.concat(pieces, ignore_index=True)
    return whole[whole["forecasts"] > 0].reset_index(drop=True)


def _errors(
    y: Floats, said: Floats, naive: Floats, scale: Floats, fan: Any, levels: tuple[float, ...], seen: NDArray[np.bool_], axis: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {name: metric(y, said, mask=seen, axis=axis) for name, metric in of.POINT.items()}
    found["mae_naive"] = of.mae(y, naive, mask=seen, axis=axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        found["skill"] = np.where(found["mae_naive"] > 0, 1 - found["mae"] / found["mae_naive"], np.nan)
    scaled = seen & ~np.isnan(scale)
    divisor = np.where(scaled, scale, 1.0)
    found["mase"] = of.mase(y, said, divisor, mask=scaled, axis=axis)
    if fan is None:
        return found
    found["pinball"] = of.pinball(y, fan, levels, mask=seen, axis=axis)
    found["crps"] = of.crps(y, fan, levels, mask=seen, axis=axis)
    if pairs := symmetric_pairs(levels):
        low, high, nominal = pairs[0]
        ends = fan[..., low], fan[..., high]
        found["coverage"] = of.coverage(y, *ends, mask=seen, axis=axis)
        found["mean_width"] = of.width(*ends, mask=seen, axis=axis)
        found["msis"] = of.msis(y, *ends, divisor, nominal, mask=scaled, axis=axis)
    return found


# --- skill -------------------------------------------------------------------------------------------------------------


def skill(rivals: pd.DataFrame, prediction: Floats, names: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """1 - mae / mae of each rival over all origins, with the interval in which it lies with probability LEVEL.

    rivals      series, origin, step, y, and the forecast of each rival under its name
    prediction  (n,) the model's

    Errors of neighbouring steps are alike, and so are those of series at the same time. So whole stretches of time are drawn,
    as long as the horizon, with all series together: circular block bootstrap (Politis and Romano 1992). With fewer than
    FEWEST origins series are drawn instead, and with as few of these there is no interval.
    """
    series = rivals.columns[list(rivals.columns).index(ORIGIN) - 1]
    y = rivals["y"].to_numpy(np.float64)
    seen = ~np.isnan(y)
    horizon, origins, many = (int(rivals[column].nunique()) for column in (STEP, ORIGIN, series))
    drawn = "time" if origins >= FEWEST else "series" if many >= FEWEST else ""
    if drawn == "time":
        place, units = _slots(rivals)
    else:
        place, units = pd.factorize(rivals[series])[0], many
    weights = _draws(units, horizon if drawn == "time" else 1, seed) if drawn else None
    mine = np.bincount(place[seen], np.abs(y - prediction)[seen], units)
    count = int(seen.sum())
    lines = []
    for name in names:
        theirs = np.bincount(place[seen], np.abs(y - rivals[name].to_numpy(np.float64))[seen], units)
        line = {"against": name, "mae": mine.sum() / count, "mae_against": theirs.sum() / count}
        line |= {"skill": 1 - mine.sum() / theirs.sum() if theirs.sum() > 0 else np.nan, "low": np.nan, "high": np.nan}
        if weights is not None and theirs.sum() > 0:
            below = weights @ theirs
            ratios = 1 - (weights @ mine)[below > 0] / below[below > 0]
            line["low"], line["high"] = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        lines.append(line | {"drawn": drawn, "origins": origins, "series": many})
    return pd.DataFrame(lines)


def _slots(rows: pd.DataFrame) -> tuple[NDArray[Any], int]:
    """The number of each row's origin and step, in order of time, and how many there are."""
    found = rows.groupby([ORIGIN, STEP], sort=True).ngroup().to_numpy(np.int64)
    return found, int(found.max()) + 1


def _draws(units: int, length: int, seed: int) -> Floats:
    """(DRAWS, units) how often each unit is drawn in runs of `length` that go round."""
    random = np.random.default_rng(seed)
    starts = random.integers(units, size=(DRAWS, -(-units // length)))
    rows = np.repeat(np.arange(DRAWS), starts.shape[1])
    weights = np.zeros((DRAWS, units))
    for step in range(min(length, units)):
        np.add.at(weights, (rows, (starts.ravel() + step) % units), 1.0)
    return weights


# --- drift -------------------------------------------------------------------------------------------------------------


def drift(history: pd.DataFrame, recent: pd.DataFrame) -> pd.DataFrame:
    """How far the rows that are judged lie from the history before them: mean, standard deviation and Kolmogorov-Smirnov distance.

    history, recent  series, step, and a column of numbers per input; the same columns

    Every series counts in units of its own history. `level` are the values, `change` those from one row to the next: a series
    with a trend drifts in its level, and not in its changes. `drifted` where the mean lies SHIFT standard deviations off or
    the spread is SPREAD times that of the history; a smaller one is usual, for a window is shorter than a history.
    """
    lines = []
    for column in (name for name in history.columns if name not in ("series", STEP)):
        for kind in ("level", "change"):
            before, now = _standard(history, recent, column, change=kind == "change")
            if len(before) < 2 or len(now) < 2:
                continue
            shift, spread = float(now.mean()), float(now.std())
            line = {"column": column, "of": kind, "rows": len(now), "shift": shift, "spread": spread}
            line["ks"] = float(ks_2samp(before, now, method="asymp").statistic)
            lines.append(line | {"drifted": abs(shift) > SHIFT or spread > SPREAD})
    return pd.DataFrame(lines, columns=["column", "of", "rows", "shift", "spread", "ks", "drifted"])


def _standard(history: pd.DataFrame, recent: pd.DataFrame, column: str, *, change: bool) -> tuple[Floats, Floats]:
    """Both sides in units of each series' history; series that never vary are left out."""

    def values(frame: pd.DataFrame) -> pd.Series[Any]:
        return frame.groupby("series", sort=True)[column].diff() if change else frame[column]

    history, recent = history.sort_values(["series", STEP]), recent.sort_values(["series", STEP])
    before, now = values(history), values(recent)
    groups = before.groupby(history["series"])
    middle, size = groups.mean(), groups.std(ddof=0)
    size = size.where(size > 1e-12 * middle.abs().clip(lower=1.0))
    scaled = ((one - frame["series"].map(middle)) / frame["series"].map(size) for one, frame in ((before, history), (now, recent)))
    left, right = (one.dropna().to_numpy(np.float64) for one in scaled)
    return left, right


# --- training ----------------------------------------------------------------------------------------------------------


def training(history: pd.DataFrame) -> pd.DataFrame:
    """One line on how a model learned, from its history (epoch, train_loss, val_loss): the best epoch, and the sign of overfitting.

    `overfitting` where the training loss went on falling after the best epoch and the validation loss ended above RISE times
    its best; what is kept is the best epoch, so it is a remark on the model and not on the forecasts.
    """
    loss, judged = history["train_loss"].to_numpy(np.float64), history["val_loss"].to_numpy(np.float64)
    if not len(history) or np.isnan(judged).all():
        return pd.DataFrame({"epochs": [len(history)]})
    best = int(np.nanargmin(judged))
    line = {"epochs": len(history), "best_epoch": history["epoch"].iloc[best], "train_loss": loss[best], "val_loss": judged[best]}
    line |= {"last_train_loss": loss[-1], "last_val_loss": judged[-1]}
    line["overfitting"] = bool(loss[-1] < loss[best] and judged[-1] > judged[best] + (RISE - 1) * abs(judged[best]))
    return pd.DataFrame([line])


def without_repeats(histories: pd.DataFrame) -> pd.DataFrame:
    """Histories of several folds without those of a model that was judged in more than one."""
    if "fold" not in histories:
        return histories
    kept: list[pd.DataFrame] = []
    for _, one in histories.groupby("fold", sort=False):
        bare = one.drop(columns="fold").reset_index(drop=True)
        if not kept or not bare.equals(kept[-1].drop(columns="fold").reset_index(drop=True)):
            kept.append(one)
    return pd.concat(kept, ignore_index=True)


def tell(label: str, tables: dict[str, pd.DataFrame], told: list[pd.DataFrame]) -> None:
    """Drift and overfitting, into the log; of a training that is judged at many origins once.

    told  the trainings that were spoken of, to which this one is added
    """
    for line in _drifted(tables.get("drift")):
        log.warning("from origin %s: the %s of %s drifted: mean off by %.1f, spread times %.2f, in units of its history", label, *line)
    trained = tables.get("training")
    if trained is None or any(trained.equals(one) for one in told):
        return
    told.append(trained)
    if "overfitting" in trained and bool(trained["overfitting"].iloc[0]):
        log.warning(
            "origin %s: a sign of overfitting: after epoch %s the training loss fell and the validation loss rose to %.4g from %.4g",
            label, trained["best_epoch"].iloc[0], trained["last_val_loss"].iloc[0], trained["val_loss"].iloc[0],
        )  # fmt: skip


def _drifted(table: pd.DataFrame | None) -> Iterator[tuple[str, str, float, float]]:
    if table is None:
        return
    for row in table[table["drifted"].astype(bool)].itertuples():
        yield row.of, row.column, row.shift, row.spread  # type: ignore[misc]  # rows of a frame have no types


def joined_of(predictions: pd.DataFrame, rivals: pd.DataFrame) -> pd.DataFrame:
    """Predictions with the helpers of their rivals' table beside them.

    Raises DataError where the two are not the same rows, which would be a mistake of ours.
    """
    if len(predictions) != len(rivals) or not (predictions[STEP].to_numpy() == rivals[STEP].to_numpy()).all():
        raise DataError("the tables of predictions and rivals are not of the same rows", slug="bad-tables")
    return predictions.assign(scale=rivals["scale"].to_numpy(), naive=rivals[REFERENCE].to_numpy())
