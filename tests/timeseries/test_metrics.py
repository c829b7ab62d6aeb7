"""metrics: against loops written from the textbook."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recipeline.errors import DataError
from recipeline.timeseries import metrics as m

S, H = 7, 5


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    actual = np.round(rng.normal(0, 3, (S, H)), 1)
    actual[1, 2] = actual[4, 0] = 0.0
    mask = rng.random((S, H)) < 0.8
    mask[3] = False
    actual[~mask] = np.nan
    return actual, rng.normal(0, 3, (S, H)), mask


def cells(mask, axis):
    """Groups of cells that are averaged together."""
    every = [(s, h) for s in range(S) for h in range(H) if mask[s, h]]
    if axis is None:
        return [every]
    return [[c for c in every if c[1 - axis] == group] for group in range(H if axis == 0 else S)]


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


SLOW = {
    "mae": lambda y, p, cs: mean(abs(y[c] - p[c]) for c in cs),
    "mse": lambda y, p, cs: mean((y[c] - p[c]) ** 2 for c in cs),
    "rmse": lambda y, p, cs: math.sqrt(mean((y[c] - p[c]) ** 2 for c in cs)),
    "bias": lambda y, p, cs: mean(p[c] - y[c] for c in cs),
    "mape": lambda y, p, cs: mean(100 * abs(y[c] - p[c]) / abs(y[c]) for c in cs if y[c] != 0),
    "smape": lambda y, p, cs: mean(200 * abs(y[c] - p[c]) / (abs(y[c]) + abs(p[c])) for c in cs),
    "wape": lambda y, p, cs: sum(abs(y[c] - p[c]) for c in cs) / sum(abs(y[c]) for c in cs) if cs else math.nan,
}


@pytest.mark.parametrize("name", m.POINT)
def test_point_metrics_are_their_definitions(name, data):
    """Over everything, per horizon, per series; a series without any observation is NaN."""
    actual, predicted, mask = data
    table = m.tables([name], actual, predicted, mask=mask)[name]
    for key, axis in (("all", None), ("horizon", 0), ("series", 1)):
        expected = [SLOW[name](actual, predicted, group) for group in cells(mask, axis)]
        np.testing.assert_allclose(np.atleast_1d(table[key]), expected, rtol=1e-12)
    assert math.isnan(table["series"][3])


def test_zeros_are_left_out_of_mape_and_counted(data):
    """And two zeros make no sMAPE."""
    actual, _predicted, mask = data
    assert m.zeros(actual, mask=mask) == sum(actual[c] == 0 for c in cells(mask, None)[0])
    assert m.smape([0.0, 1.0], [0.0, 1.0]) == 0.0
    assert m.smape([1.0], [-1.0]) == 200.0
    assert math.isnan(m.mape([0.0], [1.0]))
    assert math.isnan(m.wape([0.0], [1.0]))


def test_mase_divides_by_the_seasonal_naive_error_in_sample():
    """By hand, gaps left out; a constant or too short history has no scale."""
    history = [1.0, 5.0, 2.0, 7.0, np.nan, 8.0]
    assert m.seasonal_error(history, 2) == mean([1, 2, 1])
    assert m.seasonal_error(history) == mean([4, 3, 5])
    assert m.seasonal_error(history, 2, mask=[True] * 5 + [False]) == mean([1, 2])
    scale = np.array([[2.0], [4.0]])
    assert m.mase([[1.0, 2.0], [3.0, 4.0]], [[2.0, 4.0], [3.0, 0.0]], scale) == mean([0.5, 1.0, 0, 1.0])
    with pytest.raises(DataError, match="is constant"):
        m.seasonal_error([3.0] * 5)
    with pytest.raises(DataError, match="season 7"):
        m.seasonal_error([1.0, 2.0], 7)


def test_pinball_and_crps_against_a_loop_and_a_known_distribution(data):
    """The loop of the definition; CRPS of the true normal quantiles tends to sigma / sqrt(pi)."""
    actual, predicted, mask = data
    levels = (0.1, 0.5, 0.9)
    fan = np.sort(np.random.default_rng(1).normal(0, 3, (S, H, 3)), axis=-1)
    slow = [
        mean(mean(max(t * (actual[c] - q), (t - 1) * (actual[c] - q)) for t, q in zip(levels, fan[c], strict=True)) for c in group)
        for group in cells(mask, 0)
    ]
    np.testing.assert_allclose(m.pinball(actual, fan, levels, mask=mask, axis=0), slow, rtol=1e-12)
    np.testing.assert_allclose(m.pinball(actual, predicted[..., None], [0.5], mask=mask), m.mae(actual, predicted, mask=mask) / 2)
    from statistics import NormalDist

    grid = (np.arange(199) + 0.5) / 199
    quantiles = np.array([NormalDist(0, 2).inv_cdf(t) for t in grid])
    draws = np.random.default_rng(2).normal(0, 2, 20_000)
    score = m.crps(draws, np.broadcast_to(quantiles, (20_000, 199)), list(grid))
    assert score == pytest.approx(2 / math.sqrt(math.pi), rel=0.02)  # 20,000 draws: 0.5 % standard error


def test_coverage_width_and_msis_are_their_definitions(data):
    """Interval metrics by loop."""
    actual, predicted, mask = data
    low, high = predicted - 2, predicted + 1.5
    inside = cells(mask, None)[0]
    assert m.coverage(actual, low, high, mask=mask) == mean(float(low[c] <= actual[c] <= high[c]) for c in inside)
    assert m.width(low, high, mask=mask) == pytest.approx(3.5)
    scale = np.arange(1.0, S + 1)[:, None]
    slow = mean(
        (3.5 + 2 / 0.2 * ((low[c] - actual[c]) * (actual[c] < low[c]) + (actual[c] - high[c]) * (actual[c] > high[c]))) / scale[c[0], 0]
        for c in inside
    )
    assert m.msis(actual, low, high, scale, 0.8, mask=mask) == pytest.approx(slow, rel=1e-12)


def test_an_unmasked_nan_is_an_error_not_a_number(data):
    """With its place; so are shapes that differ."""
    actual, predicted, mask = data
    with pytest.raises(DataError, match="actual is NaN at"):
        m.mae(actual, predicted)
    predicted[0, 0], mask[0, 0], actual[0, 0] = np.nan, True, 1.0
    with pytest.raises(DataError, match=r"predicted is NaN at \(0, 0\)"):
        m.mae(actual, predicted, mask=mask)
    with pytest.raises(DataError, match="differ in shape"):
        m.mae([1.0, 2.0], [[1.0, 2.0]])
    with pytest.raises(DataError, match="by 2 levels"):
        m.pinball([1.0], [[1.0]], [0.1, 0.9])
