"""fills: what each origin sees, against scipy on the knots it knows, and the proof that it sees nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import interpolate

from recipeline.errors import DataError
from recipeline.timeseries.backtests import leaking_origins
from recipeline.timeseries.fills import BEFORE, KINDS, REACH, Layers, fill, forward, layers


def curve(kind, x, y, at):
    """scipy's interpolant through all the knots."""
    if kind == "ffill":
        return y[np.searchsorted(x, at, side="right") - 1]
    if kind == "linear" or len(x) == 2:
        return np.interp(at, x, y)
    if kind == "pchip":
        return interpolate.PchipInterpolator(x, y)(at)
    if kind in ("akima", "makima"):
        return interpolate.Akima1DInterpolator(x, y, method=kind)(at)
    chords = np.diff(y) / np.diff(x)
    return interpolate.CubicHermiteSpline(x, y, np.concatenate([chords[:1], chords]))(at)  # hermite_bdiff


def by_definition(kind, times, values, origin, longest=np.inf):
    """One column as one origin sees it: scipy between the knots at or before it, the last value carried after them."""
    out = values[: origin + 1].copy()
    known = np.flatnonzero(~np.isnan(out))
    if not len(known):
        return out
    last = known[-1]
    for row in np.flatnonzero(np.isnan(out)):
        before = known[known < row]
        if not len(before):
            continue
        if row > last:
            out[row] = out[last] if times[row] - times[last] <= longest else np.nan
            continue
        a, b = before[-1], known[known > row][0]
        if times[b] - times[a] > longest:
            continue
        knots = known
        if kind == "cubic":  # the nearest 8 before the gap and 3 after it
            place = int(np.searchsorted(known, a))
            knots = known[max(0, place - BEFORE + 1) : place + 4]
            out[row] = interpolate.CubicSpline(times[knots], values[knots])(times[row])
        else:
            out[row] = curve(kind, times[knots], values[knots], times[row : row + 1])[0]
    return out


def damaged(seed, length=40):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.2, 2.0, length))
    values = rng.normal(size=length)
    if seed % 3 == 0:
        values = np.round(values)  # equal neighbours: flat pieces, undefined Akima slopes
    values[rng.random(length) < 0.4] = np.nan
    values[15:22] = np.nan
    return times, values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longest", [None, 4.0])
def test_every_origin_sees_scipys_curve_through_the_knots_it_knows(kind, longest):
    """All origins of twelve damaged series, from the very first rows on, in uneven time."""
    for seed in range(12):
        times, values = damaged(seed)
        ready = layers(values, times, kind, longest)
        for origin in range(len(values)):
            got = ready.at([origin], origin + 1)[0, :, 0]
            expected = by_definition(kind, times, values, origin, np.inf if longest is None else longest)
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12, err_msg=f"{seed} {origin}")  # values near 1, ten operations


@pytest.mark.parametrize("kind", KINDS)
def test_no_origin_sees_anything_after_it(kind):
    """The leak test: everything after the origin replaced by wild noise and new gaps leaves its inputs bit-identical."""
    rng = np.random.default_rng(5)
    values = np.column_stack([damaged(s, 120)[1] for s in (1, 2, 3)])
    times = np.arange(120.0)

    def inputs(data, origin):
        return layers(data, times, kind, max_fill=6.0).at([origin], 24)

    origins = rng.choice(np.arange(24, 119), 50, replace=False)
    assert leaking_origins(inputs, values, origins) == ()


def test_the_leak_test_notices_a_leak():
    """Filling first and cutting windows afterwards is the mistake it is made for."""
    _, values = damaged(1, 120)

    def inputs(data, origin):
        return fill(data, np.arange(120.0), "pchip")[origin - 23 : origin + 1]

    assert len(leaking_origins(inputs, values[:, None], range(24, 119))) > 20


def test_many_origins_at_once_are_the_single_ones_and_series_join():
    """One gather for all; a panel is the parts one after the other."""
    parts = [damaged(seed, length) for seed, length in ((1, 40), (2, 55))]
    ready = [layers(values, times, "akima") for times, values in parts]
    joined = Layers.join(ready)
    first = [ready[0].at([o], 10)[0] for o in range(9, 40)]
    second = [ready[1].at([o], 10)[0] for o in range(9, 55)]
    np.testing.assert_array_equal(joined.at([*range(9, 40), *range(49, 95)], 10), np.array(first + second))
    assert all(len(layers(*reversed(parts[0]), kind).values) == 2 + REACH[kind] for kind in KINDS)


def test_an_edge_gap_is_carried_not_extrapolated():
    """A cubic run on past its data leaves the range of the data; here the last value stands."""
    values = np.concatenate([np.sin(np.arange(30) / 3), np.full(48, np.nan)])
    for kind in KINDS:
        np.testing.assert_array_equal(fill(values, np.arange(78.0), kind)[30:, 0], np.full(48, values[29]))


def test_nothing_observed_stays_nothing():
    """All NaN, and NaN before the first observation."""
    assert np.isnan(fill(np.full(5, np.nan), np.arange(5.0))).all()
    np.testing.assert_array_equal(fill([np.nan, np.nan, 2.0, np.nan], np.arange(4.0))[:, 0], [np.nan, np.nan, 2, 2])


def test_wrong_use_is_refused():
    """Unknown kinds, times that do not ascend, origins outside."""
    with pytest.raises(DataError, match="'spline' is no way of filling"):
        layers([1.0], [0.0], "spline")
    with pytest.raises(DataError, match="strictly ascending"):
        layers([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(DataError, match="between rows 2 and 3"):
        layers([1.0, 2.0, 3.0, 4.0], range(4)).at([1], 3)


def test_an_open_gap_may_repeat_its_season_damped():
    """The definition, row by row: last value plus damping^k times what the series moved one season before."""
    rng = np.random.default_rng(3)
    values = 5 * np.sin(2 * np.pi * np.arange(40) / 6) + rng.normal(size=40)
    values[[9, 20]] = np.nan
    values[28:] = np.nan
    carried = layers(values, np.arange(40.0), "linear", 8.0, season=6, damping=0.9).values[0, :, 0]
    known = forward(values[:, None])[:, 0]
    for k in range(1, 13):
        back = 6 if k <= 6 else 12
        expected = values[27] + 0.9**k * (known[27 + k - back] - known[27 - back])
        assert carried[27 + k] == pytest.approx(expected, abs=1e-12) if k <= 8 else np.isnan(carried[27 + k])
    assert leaking_origins(
        lambda v, o: layers(v, np.arange(40.0), "pchip", season=6, damping=0.9).at([o], 8), values, range(8, 39)
    ) == ()  # fmt: skip
