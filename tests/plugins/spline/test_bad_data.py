"""Data as they should not be: each is an error that names series, row, column and value, or a flagged answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recipeline.errors import DataError, RecipeError
from recipeline.timeseries.frames import Layout
from recipeline_spline.cleaning import SplinePreprocessor

LOOKBACK, HORIZON = 12, 4


def good(length=60, series="a", freq="h", start="2024-01-01"):
    stamps = pd.date_range(start, periods=length, freq=freq)
    return pd.DataFrame({"series_id": series, "timestamp": stamps, "target": 10 + np.sin(np.arange(length) / 3)})


def fit(frame, layout=None, **params):
    made = SplinePreprocessor(**params).introduce(LOOKBACK, HORIZON)
    made.layout = layout
    return made.fit(frame)


def says(frame, *words, layout=None, **params):
    """Fitting is refused with all these words; and so is a question, where it has the same fault."""
    with pytest.raises(DataError) as caught:
        fit(frame, layout, **params)
    line = str(caught.value)
    assert caught.value.exit_code == 5
    for word in words:
        assert word in line, line
    return line


def test_time_that_goes_backwards():
    frame = good()
    frame = frame.iloc[[*range(20), 30, 29, *range(31, 60)]]
    says(frame, "series 'a'", "row 29", "2024-01-02T05:00:00 after 2024-01-02T06:00:00", "non_monotonic: sort")
    made = fit(frame, non_monotonic="sort")
    assert made.findings_.sorted == 1
    whole = fit(frame.sort_values("timestamp")).history(frame.sort_values("timestamp"))
    np.testing.assert_array_equal(made.history(frame).table, whole.table)


def test_series_that_lie_between_one_another_are_no_fault():
    frame = pd.concat([good(series="a"), good(series="b")]).sort_values("timestamp", kind="stable", ignore_index=True)
    ready = fit(frame).history(frame)
    assert ready.names.tolist() == ["a", "b"]
    np.testing.assert_array_equal(ready.target[:60, 0], good().target)


def test_one_stamp_twice():
    frame = good()
    frame = pd.concat([frame.iloc[:31], frame.iloc[30:31].assign(target=99.0), frame.iloc[31:]], ignore_index=True)
    says(frame, "series 'a'", "row 31", "2024-01-02T06:00:00 is there twice", "target 99", "in row 30", "duplicates: last or mean")
    assert fit(frame, duplicates="last").history(frame).target[30, 0] == 99
    meant = fit(frame, duplicates="mean").history(frame)
    assert meant.target[30, 0] == pytest.approx((99 + frame.target[30]) / 2)
    assert meant.findings.merged == 1


def test_the_same_row_twice_is_dropped_and_counted():
    frame = good()
    frame = pd.concat([frame.iloc[:31], frame.iloc[30:31], frame.iloc[31:]], ignore_index=True)
    made = fit(frame)
    assert made.findings_.identical == 1
    assert any("1 row repeats another one" in line for line in made.findings_.lines())
    assert len(made.history(frame)) == 60


@pytest.mark.parametrize("text", ["last tuesday", "2024-13-01", ""])
def test_a_stamp_that_is_no_time(text):
    frame = good().assign(timestamp=lambda f: f.timestamp.dt.strftime("%Y-%m-%d %H:%M").astype(object))
    assert len(fit(frame).history(frame)) == 60  # as text it is read
    frame.loc[7, "timestamp"] = text
    says(frame, "series 'a'", "row 7", repr(text), "is no time")


def test_a_stamp_that_is_missing():
    frame = good()
    frame.loc[7, "timestamp"] = pd.NaT
    says(frame, "series 'a'", "row 7", "timestamp is missing")


def test_time_zones_that_are_mixed():
    frame = good().assign(timestamp=lambda f: f.timestamp.dt.strftime("%Y-%m-%dT%H:%M:%S+01:00").astype(object))
    frame.loc[9, "timestamp"] = "2024-01-01T09:00:00"
    says(frame, "row 9", "'2024-01-01T09:00:00' has no time zone", "'2024-01-01T00:00:00+01:00' has one")


def test_offsets_that_change_with_summer_time_are_one_clock():
    """23 hours on the day of the change: in UTC no hour is missing, and none is there twice in autumn."""
    for day in ("2024-03-30", "2024-10-26"):
        local = pd.date_range(day, periods=60, freq="h", tz="Europe/Berlin")
        frame = good().assign(timestamp=local)
        texts = good().assign(timestamp=[stamp.isoformat() for stamp in local])
        for given in (frame, texts):
            ready = fit(given).history(given)
            assert len(ready) == 60
            assert not np.isnan(ready.target[:60]).any()


def test_local_times_without_a_zone_repeat_an_hour_in_autumn():
    local = pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None)
    says(good().assign(timestamp=local), "2024-10-27T02:00:00 is there twice", "give them with their zone", freq="h", duplicates="error")


def test_local_times_without_a_zone_lack_an_hour_in_spring_and_may_be_merged_in_autumn():
    """What is missing is a gap that is told; two rows of one stamp are merged where that was asked for, and told as well."""
    spring = good().assign(timestamp=pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None))
    made = fit(spring, freq="h")
    assert np.flatnonzero(np.isnan(made.history(spring).target[:61, 0])).tolist() == [26]
    assert made.findings_.lines()[0] == "the longest gap has 1 grid point (0 days 02:00:00), in series 'a' after 2024-03-31T01:00:00"
    autumn = good().assign(timestamp=pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None))
    made = fit(autumn, freq="h", duplicates="mean")
    assert len(made.history(autumn)) == 59
    assert "1 row shares its series and time stamp with another one and was merged" in made.findings_.lines()


def test_a_day_begins_at_midnight_of_its_zone_in_summer_and_in_winter():
    frame = good(60).assign(timestamp=pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin"))
    ready = fit(frame, calendar=["hour"], time_zone="Europe/Berlin").history(frame)
    at = ready.channels.past.index("hour:sin")
    hours = frame.timestamp.dt.hour.to_numpy()
    np.testing.assert_allclose(ready.table[:60, at], np.sin(2 * np.pi * hours / 24), atol=1e-6)
    assert len(set(np.diff(hours))) > 2  # the change is among them


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.inf, ("target inf is infinite",)),
        (-np.inf, ("target -inf is infinite",)),
        (1e308, ("target 1e+308 is too large",)),
        ("N/A", ("target 'N/A' is no number", "leave the cell empty")),
        ("1,234", ("target '1,234' is no number", "without separators")),
        ("12_000", ("target '12_000' is no number",)),
    ],
)
def test_a_value_that_is_no_number(value, words):
    frame = good().astype({"target": object})
    frame.loc[17, "target"] = value
    says(frame, "series 'a'", "row 17", *words)
    with pytest.raises(DataError, match="row 17"):
        fit(good()).transform(frame)


def test_a_number_of_a_covariate_with_a_mistake_in_it_is_no_category():
    frame = good().assign(load=[str(number) for number in range(60)])
    assert fit(frame).channels.past == ("target", "load")
    frame.loc[5, "load"] = "N/A"
    says(frame, "row 5", "load 'N/A' is no number")


def test_integers_beyond_what_single_precision_holds():
    """2^24 + 1 is no float32; scaled values differ from their neighbours all the same, and labels come back exactly."""
    frame = good().assign(target=2**24 + np.arange(60))
    for level in ("series", "global", "window"):
        ready = fit(frame, level=level).history(frame)
        seen = ready.gather([30], LOOKBACK, HORIZON)
        assert len(np.unique(seen.past[0, :, 0])) == LOOKBACK
        np.testing.assert_allclose(seen.restore(seen.labels)[0, :, 0], 2**24 + np.arange(31, 35), rtol=0, atol=1e-4)


def test_series_without_a_single_value():
    frame = pd.concat([good(series="a"), good(series="b").assign(target=np.nan)])
    says(frame, "series 'b' has no observed target", "short: drop_series")
    made = fit(frame, short="drop_series")
    assert made.findings_.dropped == ["b"]
    with pytest.raises(DataError, match="series 'b' has no observed target"):
        made.transform(frame)


def test_series_that_are_too_short():
    frame = pd.concat([good(series="a"), good(9, series="b")])
    says(frame, "series 'b' has 9 grid points, 16 are needed", "lookback 12 and horizon 4", "short: pad or drop_series")
    assert fit(frame, short="drop_series").names_ == ("a",)
    made = fit(frame, short="pad", min_coverage=0.0)
    assert made.findings_.padded == ["b"]
    ready = made.transform(frame)
    seen = ready.gather(ready.last, LOOKBACK, HORIZON)
    assert seen.coverage.tolist() == [1.0, 0.75]
    np.testing.assert_array_equal(seen.past[1, :3, 0], 0.0)
    assert ready.stamps(ready.last + 1)[1] == np.datetime64("2024-01-01T09:00:00")


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_or_one(rows):
    says(good().iloc[:rows], "no rows" if rows == 0 else "1 grid points, 16 are needed", freq="h")
    made = fit(good())
    with pytest.raises(DataError):
        made.transform(good().iloc[:rows])


def test_a_horizon_that_is_longer_than_the_history():
    made = SplinePreprocessor().introduce(12, 100)
    with pytest.raises(DataError, match="60 grid points, 112 are needed"):
        made.fit(good())


def test_a_constant_series_is_remarked_and_scaled_to_nothing():
    frame = pd.concat([good(series="a"), good(series="b").assign(target=5.0)])
    for scale in ("standard", "robust", "minmax", "log1p", "asinh", "none"):
        for level in ("series", "global", "window"):
            made = fit(frame, scale=scale, level=level)
            assert made.findings_.constant == ["b"]
            ready = made.history(frame)
            seen = ready.gather(ready.last - HORIZON, LOOKBACK, HORIZON)
            assert np.isfinite(seen.past).all()
            np.testing.assert_allclose(seen.restore(seen.labels)[1], 5.0, rtol=1e-6)


def test_a_gap_longer_than_the_lookback_is_flagged_and_trained_around():
    frame = good()
    frame.loc[20:40, "target"] = np.nan
    ready = fit(frame, max_fill="3h").history(frame)
    trained = ready.origins(LOOKBACK, HORIZON, future=True, min_observed=0.5)
    assert not set(range(26, 46)) & set(trained.tolist())  # fewer than six of twelve rows are known there
    assert ready.gather([36], LOOKBACK, HORIZON).coverage.tolist() == [0.0]
    np.testing.assert_array_equal(ready.gather([38], LOOKBACK, HORIZON).past[0, :, 0], 0.0)
    gap = fit(frame).findings_.longest_gap
    assert (gap["steps"], gap["series"], gap["after"]) == (21, "a", "2024-01-01T19:00:00")
    says(frame, "35.0% of the grid points have no target", max_missing=0.3)


def test_nothing_known_at_the_end_is_carried_and_flagged():
    frame = good()
    frame.loc[54:, "target"] = np.nan
    ready = fit(good()).transform(frame)
    seen = ready.gather(ready.last, LOOKBACK, HORIZON)
    assert ready.stamps(ready.last)[0] == frame.timestamp.iloc[-1]
    assert seen.coverage.tolist() == [0.5]
    np.testing.assert_allclose(seen.restore(seen.past[:, -6:, :1])[0, :, 0], frame.target[53], rtol=1e-6)


def future_layout():
    return Layout("h", 24, future=("price",))


def asking(length=60):
    frame = good(length).assign(price=np.arange(length) / 7)
    frame.loc[length - HORIZON :, "target"] = np.nan
    return frame


def test_a_future_covariate_that_is_missing_at_prediction():
    made = fit(good().assign(price=1.5 + np.arange(60)), future_layout())
    whole = asking()
    ready = made.transform(whole)
    assert ready.last.tolist() == [55]
    seen = ready.gather(ready.last, LOOKBACK, HORIZON)
    mean, spread = np.mean(1.5 + np.arange(60)), np.std(1.5 + np.arange(60))
    np.testing.assert_allclose(seen.future[0, :, 0], (np.arange(56, 60) / 7 - mean) / spread, rtol=1e-5)
    holed = whole.copy()
    holed.loc[58, "price"] = np.nan
    with pytest.raises(DataError, match="series 'a': 'price' is not known at 2024-01-03T10:00:00"):
        made.transform(holed)
    with pytest.raises(DataError, match="'price' is not known at 2024-01-03T10:00:00"):
        made.transform(whole.drop(index=58))
    with pytest.raises(DataError, match="the last 4 steps are to be forecast, and 2024-01-03T06:00:00 has a target"):
        made.transform(whole.assign(target=1.0).iloc[:-2])
    with pytest.raises(DataError, match="there is no column 'price'"):
        made.transform(whole.drop(columns="price"))


def test_covariates_carry_what_was_and_never_what_comes():
    frame = good().assign(load=np.arange(60.0))
    frame.loc[[0, 1, 10, 11], "load"] = np.nan
    made = fit(frame)
    ready = made.history(frame)
    median, mean, spread = made.columns_.statistics["load"]
    at = ready.channels.past.index("load")
    carried = ready.table[:60, at] * spread + mean
    np.testing.assert_allclose(carried[[0, 1, 10, 11]], [median, median, 9.0, 9.0], rtol=1e-5)
    assert "load:mask" in ready.channels.past


def test_unknown_categories_are_the_unknown_token():
    frame = pd.concat([good(series=name).assign(kind=kind, wind="N") for name, kind in (("a", "big"), ("b", "small"))])
    layout = Layout("h", 24, past=("wind",), static=("kind",))
    made = fit(frame, layout)
    assert made.channels.codes == ("kind",)
    assert made.channels.sizes == (3,)
    ready = made.transform(pd.concat([good(series="a").assign(kind="huge", wind="SW"), good(series="c").assign(kind="small", wind="N")]))
    assert ready.codes.tolist() == [[0], [2]]
    assert ready.findings.unknown == {"wind": ["SW"], "kind": ["huge"]}
    seen = ready.gather(ready.last, LOOKBACK, HORIZON)
    assert seen.past[:, -1, ready.channels.past.index("wind=N")].tolist() == [0.0, 1.0]


def test_a_static_covariate_that_changes():
    frame = good().assign(kind=["x"] * 40 + ["y"] * 20)
    says(frame, "series 'a': kind is static, but x becomes y at 2024-01-02T16:00:00", layout=Layout("h", 24, static=("kind",)))


def test_names_with_blanks_and_in_korean():
    frame = good(series="서울 1").assign(**{"기온 °C": np.arange(60.0), "wind dir": "북"})
    made = fit(frame)
    assert made.history(frame).channels.past == ("target", "기온 °C", "wind dir=북")
    frame.loc[3, "기온 °C"] = np.inf
    says(frame, "series '서울 1'", "row 3", "기온 °C inf is infinite")


@pytest.mark.parametrize("freq", ["ME", "W-SAT", "MS", "QE", "B", "YE"])
def test_grids_that_stand_on_a_calendar(freq):
    frame = good(60, freq=freq, start="1990-01-31")
    frame = frame.drop(index=[10, 30]).reset_index(drop=True)
    made = fit(frame, freq=freq)
    ready = made.transform(frame)
    assert len(ready) == 60
    assert np.flatnonzero(np.isnan(ready.target[:60, 0])).tolist() == [10, 30]
    expected = pd.date_range("1990-01-31", periods=64, freq=freq)[60:]
    np.testing.assert_array_equal(ready.stamps(ready.last[0] + np.arange(1, 5)), expected.to_numpy())


def test_negative_values_have_no_log():
    frame = good().assign(target=lambda f: f.target - 11)
    says(frame, "series 'a' (2024-01-01)", "target -1 has no log1p", "scale: asinh", scale="log1p")
    made = fit(good(), scale="log1p")
    with pytest.raises(DataError, match="has no log1p"):
        made.transform(frame)


def test_times_without_a_step_ask_for_one():
    rng = np.random.default_rng(0)
    frame = good().assign(timestamp=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.cumsum(rng.exponential(3600, 60)), unit="s"))
    says(frame, "no common step", "give `freq`")
    ready = fit(frame, freq="h").history(frame)
    assert 0.2 < np.isnan(ready.target[: len(ready)]).mean() < 0.6  # Poisson: about e^-1 of the hours are empty
    assert ready.age.max() >= 2


def test_a_stray_stamp_is_found():
    frame = good()
    frame.loc[59, "timestamp"] = pd.Timestamp("2224-01-01")
    says(frame, "series 'a'", "spread over", "far away", freq="h")


def test_dates_with_a_number_for_a_step_and_numbers_with_a_frequency():
    says(good(), "time stamps are dates, and freq is 1", freq=1.0)
    says(good().assign(timestamp=np.arange(60)), "time stamps are numbers, and freq is 'h'", freq="h")
    assert len(fit(good().assign(timestamp=np.arange(60))).history(good().assign(timestamp=np.arange(60)))) == 60


def test_arguments_that_cannot_be_are_told_together():
    params = {
        "fill": "spam", "smooth_strength": 0, "max_fill": "soon", "time_zone": "Europe/Nowhere", "calendar": ["hours"], "freq": "x",
        "min_coverage": 2, "outlier_window": 3,
    }  # fmt: skip
    found = SplinePreprocessor.check(params, {}, "dev")
    assert sorted(problem.key[0] for problem in found) == sorted(params)
    assert next(p for p in found if p.key == ("calendar",)).hint == "did you mean hour?"
    with pytest.raises(RecipeError, match="spam"):
        SplinePreprocessor(fill="spam").fit(good())
    assert SplinePreprocessor.check(SplinePreprocessor(calendar="auto", max_fill="12h", freq="h", time_zone="UTC").params, {}, "dev") == []


def test_what_was_kept_by_another_version_is_damaged(tmp_path):
    from recipeline.errors import Damaged

    fit(good()).save(tmp_path)
    text = (tmp_path / "preprocessor.json").read_text()
    (tmp_path / "preprocessor.json").write_text(text.replace('"version": 2', '"version": 1'))
    with pytest.raises(Damaged):
        SplinePreprocessor.load(tmp_path)


def test_a_file_with_a_byte_order_mark_and_returns_is_read_as_any_other(tmp_path):
    from recipeline.stores import files

    frame = pd.concat([good(series="서울"), good(series="b c")]).sort_values("timestamp", kind="stable", ignore_index=True)
    text = frame.assign(timestamp=frame.timestamp.dt.strftime("%Y-%m-%d %H:%M")).to_csv(index=False)
    (tmp_path / "odd.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    read = files.read_frame(tmp_path / "odd.csv")
    ready = fit(read).history(read)
    assert ready.names.tolist() == ["b c", "서울"]
    np.testing.assert_allclose(ready.target[:60, 0], good().target)


def test_what_is_odd_is_remarked_before_anything_is_fitted():
    """In a recipe: told once, whatever the arguments; only what no argument could make good is an error."""
    frame = good().assign(target=lambda f: f.target - 11)
    frame.loc[20:40, "target"] = np.nan
    cleaner = SplinePreprocessor(scale="log1p")
    assert cleaner.remarks(frame) == []  # fitting says why
    told = SplinePreprocessor().remarks(frame)
    assert told[0].startswith("the longest gap has 21 grid points (0 days 22:00:00), in series 'a'")
    with pytest.raises(DataError, match="row 58"):
        cleaner.remarks(frame.iloc[::-1])


def test_columns_that_are_not_there_or_twice():
    says(good().rename(columns={"timestamp": "timestamps"}), "there is no column 'timestamp'", "did you mean timestamps?")
    says(good().drop(columns="target"), "there is no column 'target'")
    says(pd.concat([good(), good()[["target"]]], axis=1), "column target is there twice")
    with pytest.raises(DataError, match="a long frame is expected, got ndarray"):
        fit(np.zeros((60, 1)))
    frame = good()
    frame.loc[4, "series_id"] = None
    says(frame, "row 4: series_id is null")
