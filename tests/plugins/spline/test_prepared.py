"""Prepared panels: windows are what the definition says, one at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recipeline.errors import DataError
from recipeline.timeseries.fills import layers
from recipeline_spline.cleaning import SplinePreprocessor


def panel(lengths=(80, 50), holes=0.2, seed=0, freq="h"):
    """A long frame of random walks with holes, on an hourly grid."""
    rng = np.random.default_rng(seed)
    pieces = []
    for number, length in enumerate(lengths):
        values = 20.0 * number + rng.normal(size=length).cumsum()
        values[rng.random(length) < holes] = np.nan
        values[[0, -1]] = 1.0 + number, 2.0 + number
        pieces.append(
            pd.DataFrame({"series_id": f"s{number}", "timestamp": pd.date_range("2024-01-01", periods=length, freq=freq), "target": values})
        )
    return pd.concat(pieces, ignore_index=True)


def cleaned(frame, lookback=12, horizon=4, **params):
    return SplinePreprocessor(**params).introduce(lookback, horizon).fit(frame)


@pytest.mark.parametrize("fill", ["linear", "pchip", "akima", "makima", "cubic", "hermite_bdiff", "ffill"])
def test_a_window_is_the_series_as_its_origin_alone_would_have_cleaned_it(fill):
    """The second road: cut the series at the origin, fill it, scale it; no window knows more or less."""
    frame = panel()
    made = cleaned(frame, fill=fill)
    prepared = made.history(frame)
    origins = prepared.origins(12, 4, future=True, min_observed=0.0)
    got = prepared.gather(origins, 12, 4)
    assert len(origins) > 80
    for at, origin in enumerate(origins):
        number = int(prepared.series_of(origin))
        own = frame[frame.series_id == f"s{number}"].target.to_numpy()
        last = origin - prepared.starts[number]
        seen = layers(own[: last + 1], np.arange(last + 1) * 3600.0, fill).at([last], last + 1)[0, -12:, 0]
        mean, spread = np.nanmean(own), np.nanstd(own)
        np.testing.assert_allclose(got.past[at, :, 0], np.nan_to_num((seen - mean) / spread), rtol=2e-6, atol=2e-6)  # float32
        ahead = own[last + 1 : last + 5]
        np.testing.assert_array_equal(got.label_mask[at, :, 0], ~np.isnan(ahead))
        np.testing.assert_allclose(got.restore(got.labels)[at, :, 0][~np.isnan(ahead)], ahead[~np.isnan(ahead)], rtol=1e-6, atol=1e-5)


def test_channels_say_what_the_last_axis_is():
    frame = panel().assign(load=lambda f: np.arange(len(f)) / 7.0)
    prepared = cleaned(frame, smooth="one_sided_exp", calendar=["hour"]).history(frame)
    assert prepared.channels.past == ("target", "target:smooth", "load", "hour:sin", "hour:cos", "target:mask", "target:age")
    assert prepared.channels.future == ("hour:sin", "hour:cos")
    got = prepared.gather(prepared.origins(12, 4, future=False), 12, 4)
    assert got.past.shape[2] == 7
    assert got.past.dtype == np.float32
    assert got.past.flags.c_contiguous
    origin = prepared.origins(12, 4, future=False)
    np.testing.assert_array_equal(got.past[:, -1, 5], ~np.isnan(prepared.target[origin, 0]))


def test_what_is_saved_reads_back_to_the_same_bits(tmp_path):
    frame = panel().assign(wind="N", load=1.5)
    frame.loc[::3, "wind"] = "SE"
    made = cleaned(frame, smooth="local_linear", scale="asinh", calendar="auto")
    made.save(tmp_path)
    read = SplinePreprocessor.load(tmp_path)
    assert read.digest == made.digest
    one, other = made.transform(frame), read.transform(frame)
    assert one.channels == other.channels
    assert one.table.tobytes() == other.table.tobytes()
    assert one.centre.tobytes() == other.centre.tobytes()


def test_an_origin_without_enough_before_it_is_refused():
    frame = panel()
    prepared = cleaned(frame).history(frame)
    with pytest.raises(DataError, match="lookback 12 and horizon 4 need more"):
        prepared.gather([5], 12, 4)


def test_every_origin_may_be_looked_at_in_original_units():
    frame = panel(lengths=(60,))
    made = cleaned(frame, smooth="local_linear", smooth_strength=1.0, scale="asinh")
    prepared = made.history(frame)
    seen = prepared.curves(40, 12)
    np.testing.assert_array_equal(seen.stamps, frame.timestamp[29:41])
    np.testing.assert_array_equal(seen.observed[:, 0], frame.target[29:41])
    known = ~np.isnan(seen.observed)
    np.testing.assert_allclose(seen.filled[known], seen.observed[known], rtol=1e-5)
    assert np.isfinite(seen.smoothed).all()
    whole = prepared.frame()
    assert list(whole) == ["series_id", "timestamp", "target", "target:filled", "target:smooth", "target:mask", "target:age"]
    np.testing.assert_array_equal(whole.target, frame.target)
    observed = frame.target.notna()
    np.testing.assert_array_equal(whole["target:filled"][observed], frame.target[observed])
    assert whole["target:filled"].notna().all()
    assert whole["target:age"].max() >= 1


def test_what_smoothing_takes_away_is_told():
    """Noise is removed, a line is not; more strength removes more."""
    line = panel(lengths=(80,), holes=0.0)
    line["target"] = np.arange(80.0)
    assert cleaned(line, smooth="none").history(line).smoothing(12) == []
    for smooth in ("local_linear", "spline_window"):
        [told] = cleaned(line, smooth=smooth).history(line).smoothing(12)
        assert told["variance_removed"] < 1e-3
    noise = line.assign(target=np.random.default_rng(0).normal(size=80))
    shares = []
    for strength in (1.0, 4.0, 16.0):
        [told] = cleaned(noise, smooth="spline_window", smooth_strength=strength).history(noise).smoothing(12)
        assert told["roughness_smoothed"] < told["roughness_raw"]
        shares.append(told["variance_removed"])
    assert shares == sorted(shares)
    assert shares[0] < 0.8 < shares[2]


@pytest.mark.parametrize("smooth", ["one_sided_exp", "local_linear", "spline_window"])
def test_the_smoothed_channel_does_not_leave_the_range_of_training_with_a_trend(smooth):
    """It is what smoothing adds to the raw value: at a level that training never had it is what it was before."""
    frame = panel(lengths=(240,), holes=0.0)
    at = np.arange(240.0)
    frame["target"] = at / 2 + np.sin(2 * np.pi * at / 12) + 0.1 * np.cos(at * 1.7)
    prepared = cleaned(frame.head(120), smooth=smooth).history(frame)
    early, late = prepared.gather([100], 12, 4).past[0], prepared.gather([220], 12, 4).past[0]  # ten seasons later
    assert late[:, 0].min() > 2 * early[:, 0].max()
    assert np.abs(late[:, 1]).max() < 1.3 * np.abs(early[:, 1]).max()
    assert np.ptp(late[:, 1]) > 0.01


def test_a_spline_window_is_the_spline_through_four_lookbacks_before_its_origin():
    from scipy.interpolate import make_smoothing_spline

    frame = panel(lengths=(120,))
    prepared = cleaned(frame, smooth="spline_window", smooth_strength=2.0).history(frame)
    origins = prepared.origins(12, 4, future=False, min_observed=0.0)
    seen = prepared.gather(origins, 12, 4)
    again = prepared.gather(origins[::-1], 12, 4)  # kept from before, in another order
    np.testing.assert_array_equal(again.past[::-1], seen.past)
    values = frame.target.to_numpy()
    scaled = (values - np.nanmean(values)) / np.nanstd(values)
    for at in range(0, len(origins), 7):
        origin = origins[at]
        rows = np.arange(max(0, origin - 47), origin + 1)
        rows = rows[~np.isnan(scaled[rows])]
        curve = make_smoothing_spline(rows, scaled[rows], lam=16.0)
        smoothed = seen.past[at, :, 0] + seen.past[at, :, 1]
        np.testing.assert_allclose(smoothed, curve(np.minimum(np.arange(origin - 11, origin + 1), rows[-1])), atol=2e-5)


def test_several_targets_are_one_series_of_several_channels():
    values = np.random.default_rng(0).normal(size=(90, 3)).cumsum(axis=0) * [1, 10, 100]
    values[40:43, 1] = np.nan
    made = SplinePreprocessor().introduce(12, 4).fit_arrays(values[:60])
    prepared = made.arrays(values)
    assert prepared.channels.targets == ("target0", "target1", "target2")
    seen = prepared.gather(prepared.origins(12, 4, future=True), 12, 4)
    assert seen.labels.shape[1:] == (4, 3)
    origins = prepared.origins(12, 4, future=True)
    expected = np.stack([values[o + 1 : o + 5] for o in origins])
    np.testing.assert_array_equal(seen.label_mask, ~np.isnan(expected))
    got = seen.restore(seen.labels)
    np.testing.assert_allclose(got[seen.label_mask], expected[seen.label_mask], rtol=1e-5, atol=1e-4)
    fan = np.stack([seen.labels] * 2, axis=-1)
    np.testing.assert_array_equal(seen.restore(fan)[..., 1], got)


@pytest.mark.parametrize("scale", ["standard", "robust", "minmax", "log1p", "asinh", "none"])
@pytest.mark.parametrize("level", ["series", "global", "window"])
def test_labels_come_back_in_original_units(scale, level):
    frame = panel().assign(target=lambda f: f.target.abs() * 100)
    prepared = cleaned(frame, scale=scale, level=level).history(frame)
    origins = prepared.origins(12, 4, future=True)
    seen = prepared.gather(origins, 12, 4)
    expected = np.stack([prepared.target[o + 1 : o + 5] for o in origins])
    np.testing.assert_allclose(seen.restore(seen.labels)[seen.label_mask], expected[seen.label_mask], rtol=2e-5, atol=1e-3)


def test_rows_of_irregular_times_go_to_the_nearest_point_of_the_grid():
    stamps = pd.Timestamp("2024-01-01") + pd.to_timedelta([0, 20, 55, 65, 200, 239, 300], unit="min")
    frame = pd.DataFrame({"timestamp": stamps, "target": [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0]})
    for agg, expected in {"mean": [2, 6, np.nan, 9, 11, 13], "sum": [4, 12, np.nan, 9, 11, 13], "last": [3, 7, np.nan, 9, 11, 13]}.items():
        prepared = SplinePreprocessor(freq="h", agg=agg).introduce(1, 1).fit(frame).history(frame)
        np.testing.assert_array_equal(prepared.target[:6, 0], expected)
        np.testing.assert_array_equal(prepared.observed[:6, 0], ~np.isnan(expected))
        np.testing.assert_array_equal(prepared.age[:6, 0], [0, 0, 1, 0, 0, 0])


def test_outliers_are_missing_inputs_and_remain_labels():
    frame = panel(lengths=(90,), holes=0.0)
    frame["target"] = np.random.default_rng(0).normal(size=90)
    frame.loc[60, "target"] = 1000.0
    prepared = cleaned(frame, outliers="hampel").history(frame)
    assert prepared.findings.outliers >= 1
    assert not prepared.observed[60, 0]
    seen = prepared.gather([60, 59], 12, 4)
    assert abs(seen.past[0, -1, 0]) < 5
    assert seen.restore(seen.labels)[1, 0, 0] == pytest.approx(1000.0)
    assert seen.label_mask[1, 0, 0]


def test_a_series_that_begins_after_training_has_no_window_and_is_no_fault():
    frame = panel(lengths=(80, 9))
    made = cleaned(frame[frame.series_id == "s0"])
    prepared = made.history(frame)
    assert (prepared.series_of(prepared.origins(12, 4, future=True)) == 0).all()


def test_windows_under_the_share_that_was_asked_for_are_left_out():
    frame = panel(lengths=(200,), holes=0.4)
    for share in (0.6, 0.8):
        prepared = cleaned(frame, min_coverage=share).history(frame)
        origins = prepared.origins(12, 4, future=True)
        assert prepared.gather(origins, 12, 4).coverage.min() >= np.float32(share)
        assert set(prepared.origins(12, 4, future=True, min_observed=0.0)) > set(origins)


def test_no_series_takes_anything_from_the_one_before_it():
    """What is missing at the beginning of a series is not known: the median of training, and an age without end."""
    frame = panel().assign(load=np.arange(130.0), wind="N")
    second = frame.series_id == "s1"
    begins = frame.index[second][:3]
    frame.loc[begins, ["target", "load"]] = np.nan
    frame.loc[begins, "wind"] = None
    made = cleaned(frame)
    prepared = made.history(frame)
    rows = prepared.starts[1] + np.arange(3)
    median, mean, spread = made.columns_.statistics["load"]
    np.testing.assert_allclose(prepared.table[rows, prepared.channels.past.index("load")], (median - mean) / spread, rtol=1e-6)
    np.testing.assert_array_equal(prepared.table[rows, prepared.channels.past.index("wind=N")], 0.0)
    np.testing.assert_array_equal(prepared.table[rows, 0], 0.0)
    assert np.isinf(prepared.age[rows]).all()
