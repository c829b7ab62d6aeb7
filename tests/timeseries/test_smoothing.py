"""smoothing: filters against their sums, splines against scipy, and what a row may know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import make_smoothing_spline

from recipeline.timeseries.backtests import leaking_origins
from recipeline.timeseries.smoothing import WindowSpline, local_linear, one_sided_exp, roughness


def walk(seed, length=60, missing=0.3, offset=0.0):
    rng = np.random.default_rng(seed)
    values = offset + rng.normal(size=length).cumsum()
    values[rng.random(length) < missing] = np.nan
    return values


def by_definition(values, tau, *, line):
    """Weighted least squares over all rows up to each, the last result where nothing is observed."""
    smoothed = np.full(len(values), np.nan)
    for t in range(len(values)):
        if np.isnan(values[t]):
            smoothed[t] = smoothed[t - 1] if t else np.nan
            continue
        rows = np.flatnonzero(~np.isnan(values[: t + 1]))
        root = np.sqrt(np.exp(-(t - rows) / tau))
        columns = [np.ones(len(rows)), rows - t] if line and len(rows) > 1 else [np.ones(len(rows))]
        smoothed[t] = np.linalg.lstsq(np.stack(columns, axis=1) * root[:, None], values[rows] * root, rcond=None)[0][0]
    return smoothed


@pytest.mark.parametrize("offset", [0.0, 1e9])
@pytest.mark.parametrize("seed", range(4))
def test_filters_are_their_definitions(seed, offset):
    values = walk(seed, offset=offset)
    tolerance = 1e-9 if not offset else 1e-5  # of 1e9, double precision keeps seven digits after the point
    np.testing.assert_allclose(one_sided_exp(values, 3.0), by_definition(values, 3.0, line=False), rtol=0, atol=tolerance)
    np.testing.assert_allclose(local_linear(values, 3.0), by_definition(values, 3.0, line=True), rtol=0, atol=tolerance)


def test_a_line_has_no_lag_for_local_linear_and_one_for_the_mean():
    line = np.arange(50.0)
    np.testing.assert_allclose(local_linear(line, 4.0)[2:], line[2:], atol=1e-9)
    assert one_sided_exp(line, 4.0)[-1] < 46.5


@pytest.mark.parametrize("smooth", [one_sided_exp, local_linear])
def test_no_row_of_a_filter_knows_a_later_one(smooth):
    assert leaking_origins(lambda v, o: smooth(v, 3.0)[: o + 1], walk(0), range(59)) == ()


@pytest.mark.parametrize("smooth", [one_sided_exp, local_linear])
def test_nothing_is_made_of_nothing(smooth):
    assert np.isnan(smooth(np.full(5, np.nan), 2.0)).all()
    np.testing.assert_array_equal(smooth(np.array([np.nan, 3.0, np.nan]), 2.0), [np.nan, 3.0, 3.0])


@given(seed=st.integers(0, 10_000), lam=st.floats(1e-3, 1e4), missing=st.floats(0, 0.6))
@settings(max_examples=40, deadline=None)
def test_window_splines_are_those_of_scipy(seed, lam, missing):
    values = walk(seed, 40, missing)
    rows = np.flatnonzero(~np.isnan(values))
    if len(rows) < 5:  # what scipy asks for
        return
    expected = make_smoothing_spline(rows, values[rows], lam=lam)
    inside = np.arange(rows[0], rows[-1] + 1)
    got = WindowSpline(40, lam).smooth(values[None])[0]
    np.testing.assert_allclose(got[inside], expected(inside), rtol=0, atol=1e-8 * (1 + np.ptp(values[rows])) * max(1.0, lam / 100))
    np.testing.assert_array_equal(got[rows[-1] :], got[rows[-1]])  # carried, never extrapolated


def test_windows_without_a_gap_are_the_same_alone_and_together():
    """One factor serves them all; the bits must not depend on the company."""
    values = np.random.default_rng(0).normal(size=(7, 30))
    values[3, 5] = np.nan
    spline = WindowSpline(30, 10.0)
    together = spline.smooth(values)
    assert all(spline.smooth(values[i : i + 1])[0].tobytes() == together[i].tobytes() for i in range(7))


def test_windows_with_one_value_or_none():
    values = np.full((2, 10), np.nan)
    values[0, 4] = 7.0
    smoothed = WindowSpline(10, 1.0).smooth(values)
    np.testing.assert_array_equal(smoothed[0], 7.0)
    assert np.isnan(smoothed[1]).all()


def test_roughness_is_the_mean_square_of_second_differences():
    assert roughness(np.array([[0.0, 1.0, 4.0, 9.0], [1.0, 2.0, 3.0, np.nan]])) == pytest.approx((4 + 4 + 0) / 3)
    assert np.isnan(roughness(np.array([1.0, np.nan, 2.0])))
