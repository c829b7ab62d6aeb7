"""windows: every past and future pair, without copying."""

from __future__ import annotations

import time

import numpy as np
import pytest

from recipeline.errors import DataError
from recipeline.timeseries.windows import windows


def by_definition(values, lengths, lookback, horizon, stride):
    """(past, future) pairs by slow slicing."""
    pasts, futures, start = [], [], 0
    for length in lengths:
        series = values[start : start + length]
        for first in range(0, length - lookback - horizon + 1, stride):
            pasts.append(series[first : first + lookback])
            futures.append(series[first + lookback : first + lookback + horizon])
        start += length
    return np.array(pasts), np.array(futures)


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_are_the_slices_of_each_series(stride):
    """A panel of unequal series, one of them too short: no window crosses from one to the next."""
    lengths = [20, 5, 11, 12]
    values = np.random.default_rng(0).normal(size=(sum(lengths), 3))
    w = windows(values, lookback=7, horizon=4, lengths=lengths, stride=stride)
    past, future = by_definition(values, lengths, 7, 4, stride)
    batch = w.batch()
    np.testing.assert_array_equal(batch.past, past)
    np.testing.assert_array_equal(batch.future, future)
    assert set(w.series) == {0, 2, 3}
    assert batch.past_mask.all()
    np.testing.assert_array_equal(w.batch([2, 0]).past, past[[2, 0]])
    np.testing.assert_array_equal(w.pasts()[w.origins - 6], past)


def test_windows_hardly_observed_or_without_label_are_left_out():
    """Coverage is the share of the past observed, by a slow count; masks come with the batch."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 2))
    values[rng.random(200) < 0.5, 0] = np.nan
    values[90:120, 0] = np.nan
    every = windows(values, lookback=10, horizon=3, targets=[0], min_observed=0.0)
    half = windows(values, lookback=10, horizon=3, targets=[0])
    for w, least in ((every, 0.0), (half, 0.5)):
        expected = [
            o
            for o in range(9, 197)
            if (~np.isnan(values[o - 9 : o + 1, 0])).mean() >= least and (~np.isnan(values[o + 1 : o + 4, 0])).any()
        ]
        assert w.origins.tolist() == expected
        np.testing.assert_allclose(w.coverage, [(~np.isnan(values[o - 9 : o + 1, 0])).mean() for o in expected])
    batch = half.batch([0, 1])
    np.testing.assert_array_equal(batch.past_mask, ~np.isnan(batch.past))
    np.testing.assert_array_equal(batch.future_mask, ~np.isnan(batch.future))


def test_prediction_needs_no_future_and_training_labels_end_before_a_boundary():
    """The newest origin is the last row; `select` keeps windows by where their labels end."""
    w = windows(np.arange(30.0), lookback=5, horizon=4, future=False)
    assert w.origins[-1] == 29
    assert w.batch([-1]).past[0, :, 0].tolist() == [25, 26, 27, 28, 29]
    assert w.batch().future.shape == w.batch().future_mask.shape == (26, 0, 1)
    train = windows(np.arange(30.0), lookback=5, horizon=4)
    kept = train.select(train.label_ends < 20)
    assert kept.batch().future.max() == 19
    assert len(kept) == 12


def test_too_short_is_an_error_that_says_what_is_needed():
    """And wrong lengths are refused."""
    with pytest.raises(DataError, match="longest series has 6 rows, one window needs 8"):
        windows(np.zeros(10), lookback=5, horizon=3, lengths=[6, 4])
    with pytest.raises(ValueError, match="add up to 9"):
        windows(np.zeros(10), lookback=5, horizon=3, lengths=[9])
    with pytest.raises(ValueError, match="at least 1"):
        windows(np.zeros(10), lookback=0, horizon=3)


def test_a_million_rows_are_not_copied():
    """The values are used as they are; the time is a generous multiple of the promise, which the bench measures."""
    values = np.random.default_rng(2).normal(size=(1_000_000, 8)).astype(np.float32)
    began = time.process_time()
    w = windows(values, lookback=96, horizon=24)
    took = time.process_time() - began
    assert np.shares_memory(w.values, values)
    assert np.shares_memory(w.pasts(), values)
    assert w.origins.nbytes <= 0.2 * values.nbytes
    assert len(w) == 1_000_000 - 96 - 24 + 1
    assert took < 2.0
