"""How forecasts of markets do by category, liquidity and time to event: intervals, and prices as probabilities.

Sources: Brier 1950; Naeini, Cooper and Hauskrecht 2015 (expected calibration error, bins of one width); Cox 1958 (intercept and
slope of the logistic recalibration logit P(y) = a + b logit(p); 0 and 1 are perfect).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.contracts import Evaluation, Metric, Part, Predictor
from recipeline.errors import DataError
from recipeline.timeseries.frames import PREDICTION, Layout, levels_of, quantile_column, stamps_of
from recipeline.timeseries.intervals import symmetric_pairs
from recipeline_tsfm.calibration import SEGMENTS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ALL = "all"
MARKETS = "markets"
FEW = 30
"""A segment with fewer forecasts is marked: its figures are mostly chance."""
BINS = 10
EPS = 1e-6
NEWTON_MOST = 50


def brier(actual: Floats, p: Floats) -> float:
    """Mean of (p - y)^2; y in [0, 1]."""
    return float(np.mean((p - actual) ** 2))


def log_loss(actual: Floats, p: Floats) -> float:
    """Mean of -y log p - (1 - y) log(1 - p), p kept 1e-6 away from 0 and 1; y may lie between them."""
    inside = np.clip(p, EPS, 1 - EPS)
    return float(np.mean(-actual * np.log(inside) - (1 - actual) * np.log1p(-inside)))


def expected_calibration_error(actual: Floats, p: Floats) -> float:
    """Over ten bins of p of one width: the mean of |mean y - mean p|, each bin by its share."""
    place = np.minimum((p * BINS).astype(np.intp), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    gap = np.abs(np.bincount(place, weights=actual - p, minlength=BINS))
    return float(gap[count > 0].sum() / len(p))


def recalibration(actual: Floats, p: Floats) -> tuple[float, float]:
    """(intercept, slope) by maximum likelihood; NaN where p does not vary, or y is all 0 or all 1."""
    inside = np.clip(p, EPS, 1 - EPS)
    x = np.log(inside) - np.log1p(-inside)
    if np.ptp(x) < 1e-9 or not 0 < actual.mean() < 1:
        return float("nan"), float("nan")
    design, beta = np.column_stack([np.ones_like(x), x]), np.array([0.0, 1.0])
    for _ in range(NEWTON_MOST):
        said = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        curvature = (design * (said * (1 - said))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, design.T @ (actual - said))
        except np.linalg.LinAlgError:  # separated: the likelihood has no maximum
            return float("nan"), float("nan")
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            return float(beta[0]), float(beta[1])
    return float("nan"), float("nan")


def by_segment(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One line for all rows, one for each value of each column, one for each combination of values.

    rows     prediction, y, outcome (what y is compared with as an event; y itself where there is none), q…, and the columns
    returns  the columns (`all` where not cut), forecasts, few, nominal, coverage, width, and where all values lie in [0, 1]
             brier, log_loss, ece, intercept, slope
    """
    import pandas as pd

    rows = rows[rows["y"].notna()]
    cuts: list[tuple[str, ...]] = [(), *((name,) for name in columns), *((tuple(columns),) if len(columns) > 1 else ())]
    lines = []
    for cut in cuts:
        groups = [((), rows)] if not cut else list(rows.groupby(list(cut), sort=True, dropna=True))
        for values, part in groups:
            named = dict(zip(cut, values, strict=True))
            lines.append({**{name: str(named.get(name, ALL)) for name in columns}, **figures(part)})
    return pd.DataFrame(lines)


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """The figures of some rows; NaN where they are undefined."""
    y, p = rows["y"].to_numpy(np.float64), rows[PREDICTION].to_numpy(np.float64)
    event = rows["outcome"].to_numpy(np.float64) if "outcome" in rows.columns else y
    told: dict[str, Any] = {"forecasts": len(rows), "few": len(rows) < FEW}
    levels = levels_of(rows.columns)
    pair = next(iter(symmetric_pairs(levels)), None)
    nan = float("nan")
    told |= {"nominal": nan, "coverage": nan, "width": nan}
    if pair is not None and len(rows):
        low, high = (rows[quantile_column(levels[at])].to_numpy(np.float64) for at in pair[:2])
        told |= {"nominal": pair[2], "coverage": float(np.mean((y >= low) & (y <= high))), "width": float(np.mean(high - low))}
    known = ~np.isnan(event)
    probable = known.any() and ((event[known] >= 0) & (event[known] <= 1) & (p[known] >= 0) & (p[known] <= 1)).all()
    names = ("brier", "log_loss", "ece", "intercept", "slope")
    if not probable:
        return told | dict.fromkeys(names, nan)
    event, p = event[known], p[known]
    found = (brier(event, p), log_loss(event, p), expected_calibration_error(event, p), *recalibration(event, p))
    return told | dict(zip(names, found, strict=True))


class MarketEvaluator:
    """Another evaluator of forecasts, and beside its tables one by category, liquidity_bucket and tte_bucket of the markets.

    forecasts    the evaluator that does the rest: {class_path: forecast_evaluator}
    segments     columns of the data to cut by; None takes those of the three that are there
    outcome_col  column that says how a market's event ended (0 or 1, null where open): Brier score, log loss and calibration are
                 then those of the price as its probability; without it, of the price as a forecast of the price to come

    Tables: `markets` (every forecast with its segment at the origin), `segments` (all origins together).
    """

    judges_histories = True

    def __init__(self, forecasts: Any, *, segments: Sequence[str] | None = None, outcome_col: str | None = None) -> None:
        self.forecasts, self.segments, self.outcome_col = forecasts, segments, outcome_col

    @classmethod
    def example(cls) -> dict[str, Any]:
        return {"forecasts": _MedianError()}

    @property
    def measures(self) -> Sequence[Metric]:
        found: Sequence[Metric] = self.forecasts.measures
        return found

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        evaluation: Evaluation = self.forecasts.judge(pipeline, part)
        if not part.detail or "predictions" not in evaluation.tables:
            return evaluation
        return replace(evaluation, tables={**evaluation.tables, MARKETS: self._markets(evaluation.tables["predictions"], pipeline, part)})

    def summarise(self, tables: Mapping[str, pd.DataFrame]) -> Evaluation:
        own = {name: frame for name, frame in tables.items() if name == MARKETS}
        others = {name: frame for name, frame in tables.items() if name != MARKETS}
        told: Evaluation = self.forecasts.summarise(others) if hasattr(self.forecasts, "summarise") else Evaluation({}, others)
        if MARKETS not in own:
            return told
        markets = own[MARKETS]
        columns = [name for name in (self.segments or SEGMENTS) if name in markets.columns]
        return replace(told, tables={**told.tables, **own, "segments": by_segment(markets, columns)})

    def _markets(self, predictions: pd.DataFrame, pipeline: Predictor, part: Part) -> pd.DataFrame:
        import pandas as pd

        interface = pipeline.task.interface
        rows = part.rows if part.past is None else pd.concat([part.past, part.rows], ignore_index=True)
        wanted = [*(SEGMENTS if self.segments is None else self.segments), *([self.outcome_col] if self.outcome_col else [])]
        missing = [name for name in (*(self.segments or ()), self.outcome_col) if name is not None and name not in rows.columns]
        if missing:
            raise DataError(f"the data have no column {missing[0]!r}", hint="segments and outcome_col name columns", slug="missing-column")
        found = predictions.copy()
        series = interface.series_col
        stamps = stamps_of(pipeline.schema.conform(rows)[interface.timestamp_col])
        origins = Layout.of(pipeline.schema).clock.steps(stamps.min(), stamps_of(found["origin"]))
        at = Layout.of(pipeline.schema).clock.steps(stamps.min(), stamps)
        owner = rows[series].to_numpy() if series else np.zeros(len(rows))
        owned = found[series].to_numpy() if series else np.zeros(len(found))
        for name in (name for name in wanted if name in rows.columns):
            values = rows[name].to_numpy(object)
            known = rows[name].notna().to_numpy()
            said = np.full(len(found), None, dtype=object)
            for one in dict.fromkeys(owned.tolist()):
                mine = np.flatnonzero(known & (owner == one))
                mine = mine[np.argsort(at[mine], kind="stable")]
                asked = np.flatnonzero(owned == one)
                if name == self.outcome_col:  # known afterwards, and the same for every tick of a market
                    said[asked] = values[mine[-1]] if len(mine) else None
                    continue
                place = np.searchsorted(at[mine], origins[asked], side="right") - 1
                said[asked] = [values[mine[spot]] if spot >= 0 else None for spot in place]
            found["outcome" if name == self.outcome_col else name] = said
        if self.outcome_col:
            found["outcome"] = found["outcome"].astype(np.float64)
        return found


class _MedianError:
    """The plainest evaluator there is, for the example that the contract suite builds."""

    measures: tuple[Metric, ...] = (Metric("mae", "minimize", "frame", lambda y, rows: float(np.mean(np.abs(y - rows[PREDICTION])))),)
