"""grid: irregular stamps onto equal steps."""

from __future__ import annotations

import numpy as np
import pytest

from recipeline.errors import DataError
from recipeline.timeseries.grid import as_seconds, calendar, infer_step, regular


def by_definition(times, values, points, how):
    """Nearest grid point within half a step, by a loop over all pairs; a tie goes up."""
    half = (points[1] - points[0]) / 2
    result = np.full(len(points), np.nan)
    for p, point in enumerate(points):
        here = [v for t, v in zip(times, values, strict=True) if point - half <= t < point + half and not np.isnan(v)]
        if here:
            result[p] = {"mean": np.mean, "sum": np.sum, "last": lambda x: x[-1]}[how](here)
    return result


@pytest.mark.parametrize("how", ["mean", "sum", "last"])
def test_observations_go_to_the_nearest_point_with_mask_and_age(how):
    """Against the definition, on Poisson stamps."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(0.7, 300))
    values = rng.normal(size=300)
    values[rng.random(300) < 0.1] = np.nan
    grid = regular(times, values, step=1.0, aggregate=how)
    expected = by_definition(times, values, grid.stamps, how)
    np.testing.assert_allclose(grid.values[:, 0], expected, rtol=1e-12)
    np.testing.assert_array_equal(grid.mask[:, 0], ~np.isnan(expected))
    age = np.inf
    for row in range(len(grid.stamps)):
        age = 0.0 if grid.mask[row, 0] else age + 1.0
        assert grid.age[row, 0] == pytest.approx(age)
    assert abs(grid.stamps[-1] - times[-1]) <= 0.5


def test_dates_keep_their_nanoseconds_and_gaps_become_nan():
    """Hourly with a missing hour and a stamp a minute late."""
    stamps = np.array(["2024-03-01T00:00", "2024-03-01T01:01", "2024-03-01T04:00"], dtype="datetime64[ns]")
    grid = regular(stamps, [1.0, 2.0, 3.0], step=3600)
    assert grid.stamps.dtype == np.dtype("datetime64[ns]")
    assert grid.stamps[-1] == stamps[-1]
    np.testing.assert_array_equal(grid.values[:, 0], [1, 2, np.nan, np.nan, 3])
    np.testing.assert_array_equal(grid.age[:, 0], [0, 0, 3600, 7200, 0])
    assert grid.seconds.tolist() == [0, 3600, 7200, 10800, 14400]
    assert as_seconds(stamps)[1] == 3660.0


def test_the_step_is_inferred_when_there_is_one():
    """Multiples of the median pass, Poisson stamps ask for `freq`."""
    rng = np.random.default_rng(1)
    hours = np.flatnonzero(rng.random(500) < 0.8) * 3600.0
    assert infer_step(hours + rng.uniform(-10, 10, len(hours))) == pytest.approx(3600, rel=0.01)
    with pytest.raises(DataError, match="no common step") as refused:
        infer_step(np.cumsum(rng.exponential(1.0, 500)))
    assert "freq" in refused.value.hint
    with pytest.raises(DataError, match="fewer than two"):
        infer_step(np.array(["2024-01-01"], dtype="datetime64[s]"))


def test_calendar_frequencies_give_their_own_points():
    """Month ends are not equally spaced; the points reach around all the data."""
    points = calendar("2024-01-31", "2024-05-20", "ME")
    assert points.astype("datetime64[D]").astype(str).tolist() == ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31"]
    stamps = np.array(["2024-01-31", "2024-02-28", "2024-05-31"], dtype="datetime64[D]")
    np.testing.assert_array_equal(regular(stamps, [1.0, 2.0, 3.0], at=points).values[:, 0], [1, 2, np.nan, np.nan, 3])
    weeks = calendar("2024-01-03", "2024-01-18", "W-SAT").astype("datetime64[D]").astype(str).tolist()
    assert weeks == ["2023-12-30", "2024-01-06", "2024-01-13", "2024-01-20"]
    assert len(calendar("2024-01-01", "2024-01-01T03:00", "h")) == 4
    with pytest.raises(DataError, match="'fortnight' is no frequency"):
        calendar("2024-01-01", "2024-02-01", "fortnight")


def test_stamps_and_values_without_meaning_are_refused_with_their_row():
    """Backwards, missing, not a time at all, infinite, of another length."""
    with pytest.raises(DataError, match="backwards in row 2"):
        regular([0.0, 2.0, 1.0], [1, 2, 3], step=1)
    with pytest.raises(DataError, match="row 1 is missing"):
        regular(np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"), [1, 2], step=86400)
    with pytest.raises(DataError, match="dates or numbers"):
        regular(["a", "b"], [1, 2], step=1)
    with pytest.raises(DataError, match="infinite in row 1, column 0"):
        regular([0.0, 1.0], [1, np.inf], step=1)
    with pytest.raises(DataError, match="2 time stamps but 3 values"):
        regular([0.0, 1.0], [1, 2, 3], step=1)
