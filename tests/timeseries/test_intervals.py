"""intervals: calibrated coverage, on data whose truth is known."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest

from recipeline.errors import DataError
from recipeline.timeseries.intervals import Conformal, QuantileTracker, conformal_quantile, symmetric_pairs
from recipeline.timeseries.metrics import coverage

Z = NormalDist().inv_cdf(0.9)  # an 80 % interval


def test_the_conformal_quantile_is_an_order_statistic():
    """The ceil((n + 1) c)-th smallest, by sorting, exactly where floats tempt to be one off."""
    scores = np.random.default_rng(0).permutation(99) + 1.0
    assert conformal_quantile(scores, 0.8) == 80
    assert conformal_quantile(scores, 0.95) == 95
    assert conformal_quantile([*scores, math.nan], 0.9) == 90
    assert 100 * 0.55 > 55
    assert conformal_quantile(scores, 0.55) == 55
    for n in range(5, 60):
        assert conformal_quantile(np.arange(1.0, n + 1), 0.8) == min(n, -(-4 * (n + 1) // 5))  # in whole numbers


def test_too_few_scores_are_an_error_that_names_the_minimum():
    """n (1 - coverage) < 1 cannot promise anything."""
    with pytest.raises(DataError, match=r"4 calibration scores are too few for coverage 0\.8: at least 5 are needed"):
        conformal_quantile(range(4), 0.8)
    assert conformal_quantile(range(5), 0.8) == 4
    with pytest.raises(DataError, match="at least 20"):
        conformal_quantile(range(19), 0.95)
    with pytest.raises(DataError, match="at least 5"):
        Conformal().fit(np.zeros((4, 3)), np.zeros((4, 3)), np.zeros((4, 3)))


@pytest.mark.parametrize("method", ["cqr", "scale"])
@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_intervals_too_narrow_or_too_wide_become_right_per_step(method, factor):
    """Noise grows with the step; whatever the raw width, each step covers 80 % within 3 standard errors (n = 3000)."""
    rng = np.random.default_rng(1)
    sd = np.sqrt(np.arange(1, 7))
    draw = lambda: rng.normal(0.5, sd, (3000, 6))  # noqa: E731  two draws of one thing
    raw = np.broadcast_to(Z * factor * sd, (3000, 6))
    kept = Conformal(0.8, method=method).fit(draw(), -raw, raw)
    kept = Conformal.from_json(json.loads(json.dumps(kept.to_json())))
    low, high = kept.apply(-raw, raw)
    covered = coverage(draw(), low, high, axis=0)
    assert np.abs(covered - 0.8).max() < 3 * math.sqrt(2 * 0.16 / 3000)  # calibration and test both have their noise


def test_on_points_it_is_split_conformal():
    """lower = upper = point: the interval is the point plus and minus a quantile of absolute errors."""
    rng = np.random.default_rng(2)
    actual, point = rng.normal(size=(50, 1)), rng.normal(size=(50, 1))
    low, high = Conformal(0.9).fit(actual, point, point).apply([[0.0]], [[0.0]])
    expected = np.sort(np.abs(actual - point).ravel())[46 - 1]  # ceil(51 * 0.9) = 46
    assert (low.item(), high.item()) == (-expected, expected)


def test_buckets_share_a_score_and_a_window_forgets():
    """Two steps in one bucket have one amount; only the latest forecasts count."""
    actual = np.concatenate([np.full((50, 4), 100.0), np.ones((20, 4)) * [1, 2, 3, 4]])
    zero = np.zeros_like(actual)
    kept = Conformal(0.8, buckets=[0, 0, 1, 1], window=20).fit(actual, zero, zero)
    assert kept.adjustment.tolist() == [2, 4]
    _low, high = kept.apply(np.zeros(3), np.zeros(3))
    assert high.tolist() == [2, 2, 4]
    with pytest.raises(DataError, match="asked for 5"):
        Conformal(0.8).fit(actual, zero, zero).apply(np.zeros(5), np.zeros(5))
    with pytest.raises(DataError, match="not calibrated yet"):
        Conformal().apply([0.0], [1.0])


def test_a_negative_amount_narrows_but_never_crosses():
    """Where both ends would pass each other they meet in the middle; masked outcomes do not count."""
    actual, wide = np.zeros((30, 1)), np.full((30, 1), 5.0)
    actual[0] = 1e9
    kept = Conformal(0.8).fit(actual, -wide, wide, mask=actual < 1)
    assert kept.adjustment.tolist() == [-5]
    assert [float(x[0]) for x in kept.apply([-5.0], [5.0])] == [0, 0]
    assert [float(x[0]) for x in kept.apply([1.0], [3.0])] == [2, 2]


def test_the_tracker_reaches_its_coverage_under_a_shift_with_delayed_feedback():
    """Noise triples halfway; every step's long-run coverage holds, and state survives JSON in the middle."""
    rng = np.random.default_rng(3)
    horizon, total = 4, 6000
    y = rng.normal(0, np.where(np.arange(total) < total // 2, 1.0, 3.0))
    tracker = QuantileTracker(horizon, 0.8)
    hits = [[] for _ in range(horizon)]
    issued = {}
    for t in range(total):
        tracker.observe(t, y[t])
        for h in range(1, horizon + 1):
            if t - h in issued:
                low, high = issued[t - h]
                hits[h - 1].append(low[h - 1] <= y[t] <= high[h - 1])
        if t == 1000:
            tracker = QuantileTracker.from_json(json.loads(json.dumps(tracker.to_json())))
        issued[t] = tracker.issue(t, np.zeros(horizon), np.zeros(horizon))
        assert len(tracker._waiting[""]) <= horizon
    for h in range(horizon):
        assert abs(np.mean(hits[h]) - 0.8) < 0.01
        assert abs(np.mean(hits[h][-2500:]) - 0.8) < 0.02


def test_the_tracker_moves_as_its_formula_says():
    """One miss and one hit by hand; an outcome nobody forecast, or NaN, moves nothing."""
    tracker = QuantileTracker(1, 0.8, rate=0.1)
    tracker.issue(0, [0.0], [0.0])
    tracker.observe(1, 2.0)  # score 2 > 0: up by 0.1 * 2 * 0.8
    assert tracker.amount[0] == pytest.approx(0.16)
    tracker.issue(1, [0.0], [0.0])
    tracker.observe(2, 0.1)  # score 0.1 <= 0.16: down by 0.1 * 2 * 0.2
    assert tracker.amount[0] == pytest.approx(0.12)
    tracker.observe(9, 5.0)
    tracker.issue(9, [0.0], [0.0])
    tracker.observe(10, math.nan)
    assert tracker.amount[0] == pytest.approx(0.12)


def test_the_tracker_keeps_series_apart_and_hears_each_outcome_once():
    """The outcome of one series is none of another; told again it moves nothing, after JSON neither; the oldest series goes first."""
    tracker = QuantileTracker(2, 0.8, rate=0.1, series_most=2)
    tracker.issue(0, [0.0, 0.0], [0.0, 0.0], series="a")
    tracker.issue(0, [9.0, 9.0], [9.0, 9.0], series="b")
    assert not tracker.observe(1, 2.0, series="c")
    assert tracker.observe(1, 2.0, series="a")
    assert tracker.amount.tolist() == pytest.approx([0.16, 0.0])
    tracker = QuantileTracker.from_json(json.loads(json.dumps(tracker.to_json(), allow_nan=False)))
    assert not tracker.observe(1, 2.0, series="a")
    assert tracker.amount.tolist() == pytest.approx([0.16, 0.0])
    assert tracker.observe(2, 2.0, series="a")  # step 2 of the same forecast
    tracker.issue(5, [0.0, 0.0], [0.0, 0.0], series="c")
    assert not tracker.observe(1, 9.0, series="a")  # the longest ago, so no longer waited for
    assert tracker.observe(1, 9.0, series="b")
    tracker.forget()
    assert not tracker.observe(6, 1.0, series="c")


def test_symmetric_pairs_are_found_widest_first():
    """In whatever order the levels stand."""
    found = symmetric_pairs([0.9, 0.05, 0.5, 0.1, 0.95, 0.3])
    assert [(i, j) for i, j, _ in found] == [(1, 4), (3, 0)]
    assert [c for *_, c in found] == pytest.approx([0.9, 0.8])
