"""walk_forward and rolling_origin: which rows are known, fitted and judged, for series and for rows; and that a leak is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline.components import backtests
from recipeline.components.backtests import RollingOrigin, WalkForward
from recipeline.components.forecasting import Forecasting
from recipeline.components.regression import Regression
from recipeline.contracts import Selected
from recipeline.errors import DataError

DAY = np.timedelta64(1, "D")


def series(lengths: dict[str, int], horizon: int = 4, gone: list[int] | None = None) -> tuple[Forecasting, Selected, pd.DataFrame]:
    """Daily series that end on one day."""
    pieces = []
    for name, length in lengths.items():
        days = pd.date_range("2024-03-31", periods=length, freq="-1D")[::-1]
        pieces.append(pd.DataFrame({"s": name, "t": days, "y": np.arange(length, dtype=float)}))
    data = pd.concat(pieces, ignore_index=True)
    data.loc[gone or [], "y"] = np.nan
    task = Forecasting(Forecasting.Interface.model_validate({"target_col": "y", "timestamp_col": "t", "series_col": "s"}))
    task.horizon = horizon
    return task, task.select(data, task.describe(data), targets=True), data


def rows(times: Any, n: int = 60) -> tuple[Regression, Selected]:
    data = pd.DataFrame({"a": np.arange(float(n)), "y": np.arange(float(n)), "t": times})
    task = Regression(Regression.Interface.model_validate({"target_col": "y", "timestamp_col": "t"}))
    return task, task.select(data, task.describe(data), targets=True)


def test_windows_of_a_panel_are_common_to_all_series() -> None:
    """The origin is a day, whatever series there are; a short one joins when it begins; the last window ends with the data."""
    task, selected, data = series({"long": 60, "short": 9})
    split = WalkForward(3).split(selected, task)
    assert [fold.label for fold in split.folds] == ["2024-03-19", "2024-03-23", "2024-03-27"]
    assert [fold.origin for fold in split.folds] == [np.datetime64(fold.label) for fold in split.folds]
    for fold in split.folds:
        assert sorted(data.loc[fold.test, "t"].unique()) == [fold.origin + DAY * k for k in range(1, 5)]
        assert data.loc[fold.train, "t"].max() == fold.origin
        assert set(fold.past) == set(np.flatnonzero(data["t"] <= fold.origin))
    assert [len(fold.test) for fold in split.folds] == [5, 8, 8]
    assert split.keep == "last"
    assert split.audit["windows"] == split.audit["fits"] == 3
    border = {"origin": "2024-03-19", "train": 48, "test": 5, "unobserved": 0, "train_until": "2024-03-19", "refit": True}
    assert split.audit["borders"][0] == {**border, "test_from": "2024-03-20"}


@pytest.mark.parametrize(
    ("splitter", "refits", "warm"),
    [
        (RollingOrigin(4), [True, False, False, False], [False] * 4),
        (WalkForward(4), [True] * 4, [False] * 4),
        (WalkForward(4, refit="never"), [True, False, False, False], [False] * 4),
        (WalkForward(4, refit="every_k", every=3), [True, False, False, True], [False] * 4),
        (WalkForward(4, refit="warm_start"), [True] * 4, [False, True, True, True]),
    ],
)
def test_fits_are_as_many_as_asked(splitter: Any, refits: list[bool], warm: list[bool]) -> None:
    """A window that fits nothing has the training rows of the fit in force."""
    task, selected, data = series({"a": 60})
    folds = splitter.split(selected, task).folds
    assert [fold.refit for fold in folds] == refits
    assert [fold.warm for fold in folds] == warm
    fitted = None
    for fold in folds:
        fitted = fold.origin if fold.refit else fitted
        assert data.loc[fold.train, "t"].max() == fitted


def test_gap_embargo_window_and_rows_held_back() -> None:
    """Every row on its side."""
    task, selected, data = series({"a": 60, "b": 60})
    splitter = WalkForward(2, step=3, gap=1, embargo=2, window=20, calibration_size=5)
    for fold in splitter.split(selected, task).folds:
        days = {
            name: sorted((data.loc[getattr(fold, name), "t"].unique() - fold.origin) // DAY) for name in ("train", "validation", "test")
        }
        assert days == {"train": list(range(-21, -8)), "validation": list(range(-6, -1)), "test": [2, 3, 4]}
        assert (data.loc[fold.past, "t"].max() - fold.origin) / DAY == 0
    share = WalkForward(1, calibration_size=0.25).split(selected, task).folds[0]
    assert len(share.validation) == 28
    assert len(share.train) == 84


def test_a_window_in_which_nothing_was_observed_is_left_out_and_counted() -> None:
    """What it was to fit, the next one fits."""
    task, selected, _ = series({"a": 60}, gone=[48, 49, 50, 51])
    split = WalkForward(3, refit="every_k", every=2).split(selected, task)
    assert [fold.label for fold in split.folds] == ["2024-03-23", "2024-03-27"]
    assert [fold.refit for fold in split.folds] == [True, True]
    assert split.audit["windows_without_rows"] == 1
    future, selected, _ = series({"a": 60}, gone=[56, 57, 58, 59])  # rows to come are no part of the data
    assert RollingOrigin(1).split(selected, future).folds[0].label == "2024-03-23"


def test_a_test_size_takes_as_many_windows_as_fit() -> None:
    """All of stride 1: the first forecasts the first sealed step."""
    task, selected, data = series({"a": 60})
    folds = RollingOrigin(test_size=10, step=1).split(selected, task).folds
    assert len(folds) == 10 - 4 + 1
    assert data.loc[folds[0].test, "t"].min() == pd.Timestamp("2024-03-22")
    assert len(WalkForward(window="28D", step="7D").split(selected, task).folds) == 5


def test_inner_windows_stand_inside_the_training_side() -> None:
    """Of the same kind, each fitted, at most half of the time judged; positions within the rows given."""
    task, selected, _ = series({"a": 60, "b": 30})
    outer = WalkForward(2).split(selected, task).folds[0]
    inside = selected.take(outer.train)
    folds = WalkForward(2).inner(inside, task, 5)
    assert len(folds) == 5
    for fold in folds:
        assert fold.refit
        assert inside.times[fold.train].max() == fold.origin
        assert inside.times[fold.test].min() == fold.origin + DAY
        assert inside.times[fold.test].max() <= outer.origin
    assert inside.times[folds[-1].test].max() == outer.origin
    assert len(WalkForward(2).inner(selected.take(np.arange(45, 60)), task, 3)) == 3  # 15 days: the origins stand closer


# --- rows ------------------------------------------------------------------------------------------------------------------


def test_rows_are_walked_by_time_or_by_number() -> None:
    """Durations are time; numbers are different stamps, and rows of one stamp stay together."""
    hours = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(60) * 6, unit="h")
    task, selected = rows(hours)
    split = WalkForward(window="5D", step="1D", gap="12h", refit="warm_start").split(selected, task)
    times = selected.times
    assert len(split.folds) == 9
    for fold in split.folds:
        assert times[fold.train].max() <= fold.origin
        assert times[fold.train].min() > fold.origin - np.timedelta64(5, "D")
        assert times[fold.test].min() > fold.origin + np.timedelta64(12, "h")
        assert times[fold.test].max() <= fold.origin + np.timedelta64(36, "h")
        assert len(fold.test) == 4
    assert times[split.folds[-1].test].max() == times.max()
    assert [fold.warm for fold in split.folds] == [False] + [True] * 8
    task, paired = rows(np.repeat(hours[:30], 2))
    for fold in WalkForward(3, step=2).split(paired, task).folds:
        assert len(fold.test) == 4
        assert not set(paired.times[fold.train]) & set(paired.times[fold.test])
    numbers, selected = rows(np.arange(60))
    assert [fold.label for fold in RollingOrigin(3, step=5).split(selected, numbers).folds] == ["44", "49", "54"]
    assert len(WalkForward().split(selected, numbers).folds) == 5


def test_rows_in_any_order_are_walked_in_time() -> None:
    """Positions are those of the rows as given."""
    order = np.random.default_rng(4).permutation(60)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(order, unit="D")
    task, selected = rows(days)
    (fold,) = WalkForward(1, step=10).split(selected, task).folds
    assert sorted(order[fold.test]) == list(range(50, 60))
    assert order[fold.train].tolist() == list(range(50))


def test_a_weekend_without_rows_is_no_window() -> None:
    """Durations may hold no row at all."""
    days = pd.bdate_range("2024-01-01", periods=60)
    task, selected = rows(days)
    split = WalkForward(14, step="1D").split(selected, task)
    assert len(split.folds) == 10
    assert split.audit["windows_without_rows"] == 4


# --- mistakes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splitter", "words"),
    [
        (WalkForward(20), r"20 windows of 4 steps of D leave 0 steps of D of 60 steps of D to train on"),
        (WalkForward(1, gap=4), "leaves nothing of the horizon 4"),
        (WalkForward(1, step="36h"), "36h is no number of steps of D"),
        (WalkForward(test_size=3), "holds no window of 4 steps"),
        (WalkForward(window=59), "and 59 steps of D are needed"),
        (WalkForward(1, calibration_size=58), "leaves 0 rows to fit on"),
    ],
)
def test_series_that_are_too_short_are_refused_in_words(splitter: Any, words: str) -> None:
    """With what to change."""
    task, selected, _ = series({"a": 60})
    with pytest.raises(DataError, match=words):
        splitter.split(selected, task)


def test_rows_that_are_too_few_are_refused_in_words() -> None:
    """Durations as durations."""
    task, selected = rows(pd.date_range("2024-01-01", periods=60))
    with pytest.raises(DataError, match="100 windows of 1 days 00:00:00 leave 0 days"):
        WalkForward(100, step="1D").split(selected, task)
    numbers, selected = rows(np.arange(60))
    with pytest.raises(DataError, match="durations need a time column with dates"):
        WalkForward(3, step="1D").split(selected, numbers)


@pytest.mark.parametrize(
    ("params", "interface", "key", "words"),
    [
        ({"step": "fast"}, {"timestamp_col": "t"}, "step", "not a duration"),
        ({"gap": -1}, {"timestamp_col": "t"}, "gap", "not a number of steps"),
        ({"step": 3, "gap": "12h"}, {"timestamp_col": "t", "task_type": "regression"}, "step", "write all of them in one way"),
        ({"refit": "sometimes"}, {"timestamp_col": "t"}, "refit", "not one of"),
        ({"every": 3}, {"timestamp_col": "t"}, "every", "only with refit: every_k"),
        ({"n_windows": 0}, {"timestamp_col": "t"}, "n_windows", "1 or more"),
        ({"n_windows": 3, "test_size": 9}, {"timestamp_col": "t"}, "test_size", "keep one"),
        ({"gap": 1}, {"timestamp_col": "t", "future_covariates": ["f"]}, "gap", "unknown"),
        ({}, {}, "time_on", "time is needed"),
        ({"calibration_size": 1.5}, {"timestamp_col": "t"}, "calibration_size", "neither a share"),
    ],
)
def test_mistakes_that_need_no_data_are_seen_before(params: Any, interface: Any, key: str, words: str) -> None:
    """At the key that is wrong."""
    (problem,) = WalkForward.check(params, interface, "local")
    assert problem.key[0] == key
    assert words in f"{problem.message} {problem.hint}"


def test_durations_and_steps_may_be_mixed_on_a_grid() -> None:
    """A forecaster's grid turns the one into the other."""
    assert WalkForward.check({"step": 3, "window": "28D"}, {"timestamp_col": "t", "task_type": "forecasting"}, "local") == []


@pytest.mark.parametrize("planted", ["train", "past", "validation", "first"])
def test_a_planted_leak_is_refused(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is judged among those that are fitted on, held back, or looked back at; a first window without a fit."""
    task, selected, _ = series({"a": 60})
    honest = WalkForward._folds

    def folds(self: Any, *arguments: Any) -> Any:
        first, *rest = honest(self, *arguments)
        change = {"refit": False} if planted == "first" else {planted: np.append(first.train, first.test[0])}
        return [replace(first, **change), *rest]

    monkeypatch.setattr(backtests.WalkForward, "_folds", folds)
    with pytest.raises(DataError, match="window 0") as caught:
        WalkForward(2).split(selected, task)
    assert caught.value.slug == "leak"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 6), step=st.integers(1, 6), gap=st.integers(0, 3), embargo=st.integers(0, 3),
    window=st.none() | st.integers(12, 30),
    refit=st.sampled_from(["never", "always", "every_k", "warm_start"]), held=st.sampled_from([0, 0.2, 3]),
)  # fmt: skip
def test_whatever_is_asked_nothing_judged_was_known(
    count: int, step: int, gap: int, embargo: int, window: int | None, refit: Any, held: float
) -> None:
    """Row by row, on a panel with gaps."""
    task, selected, _ = series({"a": 70, "b": 33, "c": 50}, gone=[60, 61, 80, 101])
    every = {"every": 2} if refit == "every_k" else {}
    splitter = WalkForward(count, step=step, gap=gap, embargo=embargo, window=window, refit=refit, calibration_size=held, **every)
    for fold in splitter.split(selected, task).folds:
        learned = fold.train if fold.validation is None else np.concatenate([fold.train, fold.validation])
        assert not set(learned) & set(fold.test)
        assert selected.times[learned].max() + DAY * (gap + embargo) < selected.times[fold.test].min()
        assert selected.times[fold.past].max() <= fold.origin < selected.times[fold.test].min() - DAY * gap
        assert selected.times[fold.test].max() <= fold.origin + DAY * task.horizon
