"""Figures of prices as probabilities against scikit-learn and by hand; the evaluator that cuts by kind of market."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from recipeline.contracts import Evaluation, Metric, Part, Selected
from recipeline.errors import DataError
from recipeline.timeseries.frames import Layout
from recipeline_tsfm import segments
from recipeline_tsfm.segments import MarketEvaluator, by_segment


def events(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes whose probabilities are told too boldly: logit P = 0.3 + 0.6 logit p."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, n)
    return (rng.random(n) < 1 / (1 + np.exp(-(0.3 + 0.6 * x)))).astype(float), 1 / (1 + np.exp(-x))


def test_brier_and_log_loss_are_those_of_scikit_learn():
    y, p = events()
    assert segments.brier(y, p) == pytest.approx(metrics.brier_score_loss(y, p), rel=1e-12)
    assert segments.log_loss(y, p) == pytest.approx(metrics.log_loss(y, p), rel=1e-12)


def test_intercept_and_slope_are_the_logistic_regression_on_the_logit():
    """scikit-learn without penalty; and what was planted, within its error."""
    y, p = events()
    intercept, slope = segments.recalibration(y, p)
    x = np.log(p / (1 - p))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(x, y)
    assert (intercept, slope) == pytest.approx((float(oracle.intercept_[0]), float(oracle.coef_[0, 0])), abs=1e-5)
    assert (intercept, slope) == pytest.approx((0.3, 0.6), abs=0.1)


def test_the_expected_calibration_error_by_hand():
    """Two bins: 0.15 said and 0.5 came, with weight 1/2; 0.9 said and all came."""
    assert segments.expected_calibration_error(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.19, 0.9, 1.0])) == pytest.approx(
        0.5 * abs(0.5 - 0.145) + 0.5 * abs(1 - 0.95)
    )


@pytest.mark.parametrize(("y", "p"), [([0.0, 1.0], [0.5, 0.5]), ([1.0, 1.0], [0.2, 0.8]), ([0.0, 1.0], [0.2, 0.8])])
def test_where_there_is_no_recalibration_it_is_nan(y, p):
    """A constant price, one outcome only, and outcomes that prices tell apart without error."""
    assert np.isnan(segments.recalibration(np.array(y), np.array(p))).all()


def table(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    category, liquidity = np.where(np.arange(n) % 2, "sports", "politics"), np.where(np.arange(n) < 100, "low", "high")
    frame = pd.DataFrame({"category": category, "liquidity_bucket": liquidity})
    frame["prediction"], spread = 0.5, np.where(frame["category"] == "sports", 0.2, 0.05)
    frame["q0.1"], frame["q0.9"] = 0.5 - 1.2816 * spread, 0.5 + 1.2816 * spread
    frame["y"] = np.clip(0.5 + spread * rng.standard_normal(n), 0, 1)
    frame.loc[7, "y"] = np.nan
    return frame


def test_segments_are_one_by_one_and_together_and_rows_not_observed_count_in_none():
    told = by_segment(table(), ("category", "liquidity_bucket"))
    assert list(zip(told["category"], told["liquidity_bucket"], told["forecasts"], strict=True)) == [
        ("all", "all", 399), ("politics", "all", 200), ("sports", "all", 199), ("all", "high", 300), ("all", "low", 99),
        ("politics", "high", 150), ("politics", "low", 50), ("sports", "high", 150), ("sports", "low", 49),
    ]  # fmt: skip
    by = told.set_index(["category", "liquidity_bucket"])
    assert by.loc[("sports", "all"), "width"] == pytest.approx(4 * by.loc[("politics", "all"), "width"])
    assert by.loc[("all", "all"), "coverage"] == pytest.approx(0.8, abs=0.06)
    assert by.loc[("all", "all"), "nominal"] == pytest.approx(0.8)
    assert by.loc[("sports", "all"), "brier"] > 4 * by.loc[("politics", "all"), "brier"]
    assert not told["few"].any()


def test_values_that_are_no_probabilities_have_intervals_only():
    frame = table().assign(y=lambda rows: rows["y"] * 100, prediction=50.0)
    told = by_segment(frame, ()).iloc[0]
    assert np.isnan(told[["brier", "log_loss", "ece", "slope"]].to_numpy(float)).all()
    assert np.isfinite(told["width"])


class Inner:
    """An evaluator that says what it was told to."""

    measures = (Metric("mae", "minimize", "frame", lambda y, rows: 0.0),)

    def __init__(self, predictions: pd.DataFrame) -> None:
        self.predictions = predictions

    def judge(self, pipeline, part):
        return Evaluation({"mae": 1.0}, {"predictions": self.predictions} if part.detail else {})

    def summarise(self, tables):
        return Evaluation({}, {**tables, "summed": tables["predictions"]})


def asked(rows: pd.DataFrame, *, detail: bool = True, **given):
    """One judged part: two markets at an origin, and what the evaluator made of it."""
    stamps = pd.to_datetime(["2026-01-01T00:10"] * 2)
    predictions = pd.DataFrame(
        {"market": ["a", "b"], "origin": stamps, "step": 1, "y": [0.4, 0.6], "prediction": [0.5, 0.5], "q0.1": 0.3, "q0.9": 0.7}
    )
    schema = SimpleNamespace(extras={"layout": Layout("5min").to_json()}, conform=lambda frame: frame)
    interface = SimpleNamespace(series_col="market", timestamp_col="ts")
    pipeline = SimpleNamespace(task=SimpleNamespace(interface=interface), schema=schema)
    evaluator = MarketEvaluator(Inner(predictions), **given)
    part = Part(rows.iloc[6:], Selected(X=None), ("mae",), detail=detail, past=rows.iloc[:6])
    return evaluator, evaluator.judge(pipeline, part)


def rows() -> pd.DataFrame:
    """Two markets, three ticks before the origin and two after it; `a` is a week away, then a day."""
    pieces = []
    for tick in range(5):
        for market in ("a", "b"):
            stamp = pd.Timestamp("2026-01-01") + tick * pd.Timedelta("5min")
            tte = "later" if market == "b" else "week" if tick < 3 else "day"
            kind = {"tte_bucket": tte, "liquidity_bucket": "high", "won": float(market == "b")}
            pieces.append({"market": market, "ts": stamp, "y": 0.5, **kind})
    return pd.DataFrame(pieces)


def test_the_segment_is_what_the_market_was_at_the_origin():
    """Not what it became: `a` was a week away. The inner evaluator's figures and tables stay, its summary too."""
    evaluator, told = asked(rows())
    assert told.metrics == {"mae": 1.0}
    assert told.tables["markets"]["tte_bucket"].tolist() == ["week", "later"]
    summed = evaluator.summarise(told.tables)
    assert set(summed.tables) == {"predictions", "summed", "markets", "segments"}
    assert summed.tables["segments"]["tte_bucket"].tolist() == ["all", "all", "later", "week", "later", "week"]
    assert asked(rows(), detail=False)[1].tables == {}


def test_an_outcome_column_is_what_probabilities_are_compared_with():
    """`b` won at 0.5 said: Brier 0.25 for both, whatever the next price was."""
    evaluator, told = asked(rows(), outcome_col="won")
    assert told.tables["markets"]["outcome"].tolist() == [0.0, 1.0]
    assert evaluator.summarise(told.tables).tables["segments"]["brier"].iloc[0] == pytest.approx(0.25)


@pytest.mark.parametrize("given", [{"segments": ["colour"]}, {"outcome_col": "lost"}])
def test_a_column_that_is_not_there_is_a_data_error(given):
    with pytest.raises(DataError, match=r"no column '(colour|lost)'"):
        asked(rows(), **given)
