"""baselines: by hand, and on series that they forecast exactly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from recipeline.errors import DataError
from recipeline.timeseries.baselines import drift, fit_nlinear, moving_average, naive, seasonal_naive
from recipeline.timeseries.windows import windows


def test_simple_forecasts_by_hand():
    """One history of five values."""
    history = [1.0, 2.0, 4.0, 8.0, 5.0]
    assert naive(history, 3).tolist() == [[5, 5, 5]]
    assert seasonal_naive(history, 5, 2).tolist() == [[8, 5, 8, 5, 8]]
    assert drift(history, 2).tolist() == [[6, 7]]
    assert moving_average(history, 2, 4).tolist() == [[4.75, 4.75]]
    assert naive([history, history[::-1]], 1).tolist() == [[5], [1]]


def test_what_has_no_whole_season_is_an_error():
    """With the number of values needed."""
    with pytest.raises(DataError, match="history of 2 values is too short, 7 are needed"):
        seasonal_naive([1.0, 2.0], 3, 7)


def test_nlinear_is_ridge_on_differences_from_the_last_value():
    """Against scikit-learn's Ridge, windows with gaps left out."""
    rng = np.random.default_rng(0)
    past, future = rng.normal(5, 1, (200, 12)), rng.normal(5, 1, (200, 3))
    past[3, 4] = future[7, 1] = np.nan
    whole = ~(np.isnan(past).any(axis=1) | np.isnan(future).any(axis=1))
    x, y = past[whole] - past[whole][:, -1:], future[whole] - past[whole][:, -1:]
    alpha = 2.0 * np.mean((x - x.mean(axis=0)) ** 2)
    reference = Ridge(alpha=alpha).fit(x, y)
    model = fit_nlinear(past, future, ridge=2.0)
    np.testing.assert_allclose(model.predict(past[whole]), reference.predict(x) + past[whole][:, -1:], rtol=1e-9)
    with pytest.raises(DataError, match="fitted on 12 past values, got 5"):
        model.predict(np.zeros((1, 5)))


def test_nlinear_learns_a_season_and_follows_a_level():
    """A sine is forecast exactly, also when the level has moved by 1000 since training."""
    batch = windows(np.sin(np.arange(500) * 2 * np.pi / 12), lookback=24, horizon=12).batch()
    model = fit_nlinear(batch.past[..., 0], batch.future[..., 0], ridge=1e-9)
    np.testing.assert_allclose(model.predict(batch.past[..., 0] + 1000), batch.future[..., 0] + 1000, atol=1e-6)


def test_no_whole_window_is_an_error():
    """Nothing to learn from is not a model of zeros."""
    with pytest.raises(DataError, match="no window"):
        fit_nlinear(np.full((3, 4), np.nan), np.zeros((3, 2)))
