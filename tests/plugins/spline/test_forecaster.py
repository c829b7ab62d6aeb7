"""The forecaster on frames: panels, covariates, gaps, unseen series, its own preprocessor and that of the engine."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")

from recipeline.contracts import FitContext, Selected  # torch is asked for first
from recipeline.errors import DataError
from recipeline.timeseries.frames import Layout
from recipeline_spline.cleaning import SplinePreprocessor
from recipeline_spline.model import SplineLSTM

SMALL = {"horizon": 6, "lookback": 24, "hidden_size": 16, "max_epochs": 3, "batch_size": 64, "learning_rate": 5e-3, "random_state": 3}


def panel(series=("a", "b", "c"), rows=300, noise=0.05, seed=0):
    """Sines of one period and many levels, sizes and lengths."""
    rng = np.random.default_rng(seed)
    pieces = []
    for number, name in enumerate(series):
        count = rows - 40 * number
        at = np.arange(rows - count, rows)
        value = 100.0 * 3**number + 2.0**number * (np.sin(2 * np.pi * at / 12) * 5 + noise * rng.normal(size=count))
        pieces.append(
            pd.DataFrame({"series_id": name, "timestamp": pd.Timestamp("2024-01-01") + pd.to_timedelta(at, "h"), "target": value})
        )
    return pd.concat(pieces, ignore_index=True)


def cut(frame, stamp):
    return frame[frame["timestamp"] < stamp], frame[frame["timestamp"] >= stamp]


def error(said, truth):
    joined = said.merge(truth, on=["series_id", "timestamp"], validate="one_to_one")
    assert len(joined) == len(said)
    return (joined["prediction"] - joined["target"]).abs().groupby(joined["series_id"]).mean()


def test_a_panel_of_unequal_series_one_of_them_unseen(tmp_path):
    frame = panel(("a", "b", "c", "d"))
    history, truth = cut(frame, frame["timestamp"].max() - pd.Timedelta("5h"))
    train, validation = cut(history[history["series_id"] != "d"], pd.Timestamp("2024-01-10"))
    model = SplineLSTM(**SMALL).fit(train, validation=validation)
    said = model.predict(history)
    assert list(said.columns) == ["series_id", "timestamp", "step", "prediction", "q0.1", "q0.5", "q0.9", "low_coverage"]
    assert said.groupby("series_id").size().to_dict() == dict.fromkeys("abcd", 6)
    assert not said["low_coverage"].any()
    assert (said["q0.1"] <= said["q0.5"]).all()
    assert (said["q0.5"] <= said["q0.9"]).all()
    assert (error(said, truth) < [1.5, 3, 6, 12]).all()  # amplitudes are 5, 10, 20, 40
    model.save(tmp_path / "model")
    again = SplineLSTM.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.predict(history), said, check_exact=True)


def test_the_engines_preprocessor_is_fitted_on_training_rows_and_kept_with_the_weights(tmp_path):
    """One that learns during training is the model's to keep: frames and what it made of them give the same bits."""
    frame = panel()
    train, validation = cut(frame, pd.Timestamp("2024-01-10"))
    cleaner = SplinePreprocessor()
    context = FitContext(0, tmp_path, preprocessor=cleaner, validation=Selected(X=validation))
    model = SplineLSTM(**SMALL).fit(train, train["target"], context=context)
    own = SplineLSTM(**SMALL).fit(train, validation=validation)
    said = model.predict(cleaner.transform(frame))
    pd.testing.assert_frame_equal(said, own.predict(frame), check_exact=True)
    model.save(tmp_path / "model")
    again = SplineLSTM.load(tmp_path / "model")
    assert (tmp_path / "model" / "preprocessor").is_dir()
    pd.testing.assert_frame_equal(again.predict(cleaner.transform(frame)), said, check_exact=True)
    pd.testing.assert_frame_equal(again.predict(frame), said, check_exact=True)


def test_training_never_sees_labels_of_the_validation_rows():
    frame = panel(("a",))
    border = pd.Timestamp("2024-01-10")
    train, validation = cut(frame, border)
    shaken = validation.assign(target=np.random.default_rng(1).normal(size=len(validation)) * 100)
    models = [SplineLSTM(**SMALL, calibrate=False, patience=9).fit(train, validation=held) for held in (validation, shaken)]
    rows = [[row["train_loss"] for row in model.history_] for model in models]
    assert rows[0] == rows[1]
    assert models[0].history_ != models[1].history_


def test_without_validation_the_last_windows_are_held_back():
    frame = panel()
    model = SplineLSTM(**SMALL, calibration=0.2)
    made = model._of_frames(frame, None, None)
    assert 0.15 < len(made.held) / (len(made.held) + len(made.train)) < 0.25


def test_gaps_are_learned_around_and_low_coverage_is_flagged():
    frame = panel()
    rng = np.random.default_rng(0)
    holed = frame.copy()
    holed.loc[rng.random(len(frame)) < 0.2, "target"] = np.nan
    model = SplineLSTM(**SMALL).fit(holed)
    assert model.committee_.shape.channels > 1  # mask and age
    last = frame["timestamp"].max()
    history = holed[holed["timestamp"] <= last - pd.Timedelta("6h")]
    truth = frame[frame["timestamp"] > last - pd.Timedelta("6h")]
    assert (error(model.predict(history), truth) < [2, 4, 8]).all()
    bare = history.copy()
    bare.loc[(bare["series_id"] == "b") & (bare["timestamp"] > last - pd.Timedelta("24h")), "target"] = np.nan
    flags = model.predict(bare).groupby("series_id")["low_coverage"].all()
    assert flags.to_dict() == {"a": False, "b": True, "c": False}


def test_covariates_of_every_kind_are_learned_from():
    """The next values are what a future covariate says, in a unit that a category says: without both it could not be known."""
    rng = np.random.default_rng(0)
    pieces = []
    for number, name in enumerate("abcd"):
        known = rng.normal(size=300)
        stamps = pd.date_range("2024-01-01", periods=300, freq="h")
        kind = "up" if number % 2 else "down"
        columns = {"series_id": name, "timestamp": stamps, "target": known if kind == "up" else -known, "known": known}
        pieces.append(pd.DataFrame({**columns, "kind": kind, "before": rng.normal(size=300), "size": float(number)}))
    frame = pd.concat(pieces, ignore_index=True)
    layout = Layout("h", 24, past=("before",), future=("known",), static=("kind", "size"))
    cleaner = SplinePreprocessor()
    cleaner.layout = layout
    model = SplineLSTM(**{**SMALL, "max_epochs": 12}).fit(frame, context=FitContext(0, None, preprocessor=cleaner))
    shape = model.committee_.shape
    assert (shape.channels, shape.future, shape.static, shape.categories) == (3, 1, 1, (2,))
    question = frame.copy()
    hidden = question["timestamp"] > question["timestamp"].max() - pd.Timedelta("6h")
    question.loc[hidden, "target"] = np.nan
    said = model.predict(cleaner.transform(question))
    truth = frame[hidden.to_numpy()].sort_values(["series_id", "timestamp"])["target"].to_numpy()
    assert np.abs(said["prediction"].to_numpy() - truth).mean() < 0.35 * np.abs(truth).mean()
    new = question.assign(kind="sideways")
    assert np.isfinite(model.predict(cleaner.transform(new))["prediction"]).all()


def test_times_that_come_by_chance_are_worth_knowing():
    """Poisson sampling, once an hour on average: on the hourly grid errors are a fraction of those of a network that takes rows for time,
    whether its steps are taken as hours or as the rows that came (0.06 beside 0.38 and 0.39)."""
    rng = np.random.default_rng(1)
    hours = np.cumsum(rng.exponential(1.0, 1500))

    def curve(at):
        return np.sin(2 * np.pi * at / 24) + 0.5 * np.sin(2 * np.pi * at / 11)

    start, cut, ahead = pd.Timestamp("2024-01-01"), 1200, np.arange(1, 7)
    frame = pd.DataFrame(
        {"series_id": "a", "timestamp": start + pd.to_timedelta(hours, "h"), "target": curve(hours) + 0.1 * rng.normal(size=1500)}
    )
    arguments = {**SMALL, "lookback": 48, "segment": 12, "max_epochs": 6}

    def forecasts(rows, origins, **cleaning):
        model = SplineLSTM(**arguments, cleaning=cleaning).fit(rows.iloc[:cut])
        panel = model.preprocessor_.history(rows)
        known = panel.origins(48, 6, future=True, min_observed=0.0)
        known = known[origins(panel, known)]
        return panel, known, model.predict_origins(panel, known)[:, :, 0, 1]

    panel, origins, said = forecasts(frame, lambda panel, o: panel.stamps(o) > frame["timestamp"].to_numpy()[cut], freq="h")
    since = (panel.stamps(origins) - start.to_datetime64()) / np.timedelta64(1, "h")
    in_time = np.abs(said - curve(since[:, None] + ahead)).mean()
    _, origins, said = forecasts(frame.assign(timestamp=np.arange(1500.0)), lambda _, o: o >= cut)
    for came in (hours[origins][:, None] + ahead, hours[origins[:, None] + ahead]):
        assert in_time < 0.3 * np.abs(said - curve(came)).mean()


def test_windows_gathered_batch_by_batch_give_the_same_bits(monkeypatch):
    frame = panel()
    held = SplineLSTM(**SMALL).fit(frame)
    monkeypatch.setattr("recipeline_spline.model.RESIDENT", 0)
    streamed = SplineLSTM(**SMALL).fit(frame)
    pd.testing.assert_frame_equal(streamed.predict(frame), held.predict(frame), check_exact=True)


def test_too_short_and_unfitted_are_told():
    with pytest.raises(DataError):
        SplineLSTM(**SMALL).fit(panel(("a",), rows=25))
    with pytest.raises(DataError, match="predict takes"):
        SplineLSTM(**SMALL).predict(panel())
    model = SplineLSTM(**SMALL).fit(panel())
    with pytest.raises(DataError):
        model.predict(panel(("a",)).iloc[:20])
    with pytest.raises(DataError, match="fit with an array"):
        model.predict_windows(np.zeros((2, 24)))
