"""outliers: the causal Hampel rule against its definition, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from recipeline.timeseries.backtests import leaking_origins
from recipeline.timeseries.outliers import hampel


def by_definition(values, window, threshold):
    flagged = np.zeros(len(values), bool)
    for t, value in enumerate(values):
        past = values[max(0, t - window) : t]
        past = past[~np.isnan(past)]
        if len(past) >= 5 and not np.isnan(value):
            middle = np.median(past)
            spread = 1.4826 * np.median(np.abs(past - middle))
            flagged[t] = spread > 0 and abs(value - middle) > threshold * spread
    return flagged


@pytest.mark.parametrize("seed", range(6))
def test_it_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(1.5, size=200)
    values[rng.random(200) < 0.3] = np.nan
    if seed % 2:
        values = np.round(values)  # many equal: MAD 0
    flagged = hampel(values, 12, 3.0)
    np.testing.assert_array_equal(flagged, by_definition(values, 12, 3.0))
    assert flagged.any()
    np.testing.assert_array_equal(hampel(np.stack([values, -values], axis=1), 12, 3.0)[:, 1], flagged)


def test_no_row_is_judged_by_a_later_one():
    values = np.random.default_rng(0).standard_t(2, size=80)
    assert leaking_origins(lambda v, o: hampel(v, 10, 3.0)[: o + 1], values, range(5, 79)) == ()


def test_a_shift_of_level_is_believed_after_half_a_window():
    rng = np.random.default_rng(1)
    values = rng.normal(size=100)
    values[50:] += 100
    flagged = np.flatnonzero(hampel(values, 20))
    assert flagged[0] == 50
    assert flagged[-1] <= 61


def test_long_series_are_judged_in_pieces(monkeypatch):
    values = np.random.default_rng(2).standard_t(2, size=500)
    whole = hampel(values, 10, 3.0)
    monkeypatch.setattr("recipeline.timeseries.outliers.CHUNK", 70)
    np.testing.assert_array_equal(hampel(values, 10, 3.0), whole)
