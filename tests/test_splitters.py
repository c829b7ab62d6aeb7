"""Splitters: scikit-learn's rows for the same arguments, and an audit that tells the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import model_selection as theirs

from recipeline.components.classification import Classification
from recipeline.components.regression import Regression
from recipeline.components.splitters import CrossValidation, GroupSplit, TimeSeriesSplit, TimeSplit, TrainTestSplit
from recipeline.contracts import Selected
from recipeline.errors import DataError

N = 120


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(11)
    return pd.DataFrame(
        {
            "a": random.normal(size=N),
            "b": random.normal(size=N),
            "plan": random.choice(["basic", "pro"], N, p=[0.8, 0.2]),
            "shop": random.integers(15, size=N),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.permutation(N), unit="D"),
            "label": random.choice(["x", "y", "z"], N, p=[0.6, 0.3, 0.1]),
            "value": random.normal(size=N),
        }
    )


def classes(frame: pd.DataFrame, **more: Any) -> tuple[Classification, Selected]:
    task = Classification(Classification.Interface.model_validate({"target_col": "label", **more}))
    return task, task.select(frame, task.describe(frame), targets=True)


def numbers(frame: pd.DataFrame, **more: Any) -> tuple[Regression, Selected]:
    task = Regression(Regression.Interface.model_validate({"target_col": "value", **more}))
    return task, task.select(frame, task.describe(frame), targets=True)


def pairs(folds: Any) -> list[tuple[list[int], list[int]]]:
    return [(fold.train.tolist(), fold.test.tolist()) for fold in folds]


@pytest.mark.parametrize(("size", "stratify", "seed"), [(0.2, True, 42), (0.25, False, 0), (30, True, 7)])
def test_the_rows_are_those_of_train_test_split(frame: pd.DataFrame, size: float, stratify: bool, seed: int) -> None:
    """The same rows in the same order, so a hand-written script fits on the same matrix."""
    task, selected = classes(frame)
    split = TrainTestSplit(size, stratify=stratify, random_state=seed).split(selected, task)
    train, test = theirs.train_test_split(np.arange(N), test_size=size, stratify=frame["label"] if stratify else None, random_state=seed)
    assert pairs(split.folds) == [(train.tolist(), test.tolist())]
    assert split.keep == "last"


def test_a_column_can_be_stratified_on(frame: pd.DataFrame) -> None:
    """The shares of its values are kept, for a target without classes too."""
    task, selected = numbers(frame)
    split = TrainTestSplit(0.25, stratify_on="plan", random_state=1).split(selected, task)
    train, test = theirs.train_test_split(np.arange(N), test_size=0.25, stratify=frame["plan"], random_state=1)
    assert pairs(split.folds) == [(train.tolist(), test.tolist())]


def test_refit_on_all_keeps_one_more_pipeline(frame: pd.DataFrame) -> None:
    """And the audit says so."""
    task, selected = classes(frame)
    split = TrainTestSplit(refit_on="all", random_state=1).split(selected, task)
    assert split.keep == "all"
    assert split.audit["saved"] == "the pipeline fitted on all rows"


def test_without_shuffling_the_last_rows_are_sealed(frame: pd.DataFrame) -> None:
    """In their order."""
    task, selected = numbers(frame)
    split = TrainTestSplit(0.25, shuffle=False).split(selected, task)
    assert pairs(split.folds) == [(list(range(90)), list(range(90, N)))]


def test_cross_validation_is_stratified_where_there_are_classes(frame: pd.DataFrame) -> None:
    """StratifiedKFold for classes, KFold for values, each row judged once; the pipeline of all rows is kept."""
    task, selected = classes(frame)
    split = CrossValidation(4, random_state=3).split(selected, task)
    cut = theirs.StratifiedKFold(4, shuffle=True, random_state=3).split(np.zeros(N), frame["label"])
    assert pairs(split.folds) == [(train.tolist(), test.tolist()) for train, test in cut]
    assert split.keep == "all"
    task, selected = numbers(frame)
    folds = CrossValidation(5, shuffle=False, random_state=9).split(selected, task).folds
    assert pairs(folds) == [(train.tolist(), test.tolist()) for train, test in theirs.KFold(5).split(np.zeros(N))]


def test_inner_folds_are_those_that_scikit_learn_would_cut(frame: pd.DataFrame) -> None:
    """Positions within the training side."""
    task, selected = classes(frame)
    splitter = TrainTestSplit(stratify=True, random_state=5)
    inside = selected.take(splitter.split(selected, task).folds[0].train)
    cut = theirs.StratifiedKFold(3, shuffle=True, random_state=5).split(np.zeros(len(inside.y)), inside.y)
    assert pairs(splitter.inner(inside, task, 3)) == [(train.tolist(), test.tolist()) for train, test in cut]


@pytest.mark.parametrize("how", ["group_col", "group_on"])
def test_no_group_stands_on_both_sides(frame: pd.DataFrame, how: str) -> None:
    """Outside, inside, and in cross-validation; the audit counts zero."""
    task, selected = classes(frame, group_col="shop") if how == "group_col" else classes(frame)
    argument = {} if how == "group_col" else {"group_on": "shop"}
    shops = frame["shop"].to_numpy()
    for splitter in (GroupSplit(0.3, random_state=2, **argument), CrossValidation(3, random_state=2, **argument)):
        split = splitter.split(selected, task)
        assert split.audit["groups_shared"] == 0
        for fold in split.folds:
            assert not set(shops[fold.train]) & set(shops[fold.test])
        inside = selected.take(split.folds[0].train)
        for fold in splitter.inner(inside, task, 3):
            there = shops[split.folds[0].train]
            assert not set(there[fold.train]) & set(there[fold.test])


def test_group_split_is_group_shuffle_split(frame: pd.DataFrame) -> None:
    """The same rows for the same seed."""
    task, selected = classes(frame, group_col="shop")
    split = GroupSplit(0.3, random_state=2).split(selected, task)
    cut = theirs.GroupShuffleSplit(1, test_size=0.3, random_state=2).split(np.zeros(N), groups=frame["shop"])
    assert pairs(split.folds) == [(train.tolist(), test.tolist()) for train, test in cut]


def test_the_latest_rows_are_sealed(frame: pd.DataFrame) -> None:
    """Every training row is older than every test row, and stands in order of time."""
    task, selected = numbers(frame, timestamp_col="day")
    split = TimeSplit(0.2).split(selected, task)
    fold = split.folds[0]
    order = np.argsort(frame["day"].to_numpy(), kind="stable")
    assert pairs(split.folds) == [(order[:96].tolist(), order[96:].tolist())]
    border = split.audit["borders"][0]
    assert (border["train"], border["test"]) == (96, 24)
    assert border["train_until"] < border["test_from"]
    assert frame["day"].iloc[fold.train].is_monotonic_increasing


def test_rows_of_one_time_stand_on_one_side(frame: pd.DataFrame) -> None:
    """The border moves back to the first row of its time."""
    frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(N) // 10, unit="D")
    task, selected = numbers(frame, timestamp_col="day")
    fold = TimeSplit(25).split(selected, task).folds[0]
    assert (len(fold.train), len(fold.test)) == (90, 30)
    for inner in TimeSplit(25).inner(selected.take(fold.train), task, 4):
        days = frame["day"].to_numpy()[fold.train]
        assert days[inner.train].max() < days[inner.test].min()


@pytest.mark.parametrize(("gap", "left"), [(5, 91), ("5D", 91)])
def test_a_gap_is_rows_or_a_duration(frame: pd.DataFrame, gap: int | str, left: int) -> None:
    """One row a day, so both mean the same; the audit counts the rows on neither side."""
    task, selected = numbers(frame, timestamp_col="day")
    split = TimeSplit(0.2, gap=gap).split(selected, task)
    assert len(split.folds[0].train) == left
    assert split.audit["borders"][0]["left_out"] == 5


def test_time_series_split_is_scikit_learns_on_ordered_rows(frame: pd.DataFrame) -> None:
    """Expanding past, next part, k times; one pipeline of all rows is kept."""
    task, selected = numbers(frame, timestamp_col="day")
    order = np.argsort(frame["day"].to_numpy(), kind="stable")
    split = TimeSeriesSplit(4, gap=2).split(selected, task)
    cut = theirs.TimeSeriesSplit(4, gap=2).split(np.zeros(N))
    assert pairs(split.folds) == [(order[train].tolist(), order[test].tolist()) for train, test in cut]
    assert split.keep == "all"


def test_times_may_be_numbers_text_or_have_a_zone(frame: pd.DataFrame) -> None:
    """All four forms of one calendar are cut alike."""
    cuts = []
    days = frame["day"]
    for day in (days, days.dt.tz_localize("Asia/Seoul"), days.dt.strftime("%Y-%m-%d"), days.astype("int64")):
        task, selected = numbers(frame.assign(day=day), timestamp_col="day")
        cuts.append(pairs(TimeSplit(0.2).split(selected, task).folds))
    assert cuts[0] == cuts[1] == cuts[2] == cuts[3]


def test_the_audit_tells_class_shares_and_duplicates(frame: pd.DataFrame) -> None:
    """A row whose features stand on both sides is counted; shares are by the label as the data have it."""
    frame = pd.concat([frame, frame.iloc[:40]], ignore_index=True)
    task, selected = classes(frame)
    split = TrainTestSplit(0.3, stratify=True, random_state=0).split(selected, task)
    fold = split.folds[0]
    features = frame.drop(columns="label").astype(str).agg("|".join, axis=1)
    assert split.audit["duplicates"] == features.iloc[fold.test].isin(set(features.iloc[fold.train])).sum() > 0
    shares = split.audit["borders"][0]["classes"]
    assert set(shares) == {"x", "y", "z"}
    assert shares["z"]["test"] == pytest.approx((frame["label"].iloc[fold.test] == "z").mean())


def test_what_cannot_be_split_is_a_data_error(frame: pd.DataFrame) -> None:
    """A class of one row, too many folds, no time, an unknown column, no class to stratify on."""
    lonely = frame.assign(label=["rare", *["x", "y"] * 59, "x"])
    task, selected = classes(lonely)
    with pytest.raises(DataError, match="cannot be split"):
        TrainTestSplit(stratify=True, random_state=0).split(selected, task)
    task, selected = numbers(frame)
    with pytest.raises(DataError, match="cannot be split"):
        CrossValidation(N + 1).split(selected, task)
    with pytest.raises(DataError, match="no time column"):
        TimeSplit().split(selected, task)
    with pytest.raises(DataError, match="did you mean plan"):
        TrainTestSplit(stratify_on="plam").split(selected, task)
    with pytest.raises(DataError, match="target with classes"):
        TrainTestSplit(stratify=True).split(selected, task)
    with pytest.raises(DataError, match="leaves no row"):
        TimeSplit(N, time_on="day").split(*reversed(numbers(frame.assign(day=np.arange(N)))))


def test_a_class_with_fewer_rows_than_folds_is_said(frame: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    """scikit-learn's warning reaches the log of the run, not the screen of a library user."""
    task, selected = classes(frame.assign(label=["rare"] * 2 + ["x", "y"] * 59))
    with caplog.at_level("WARNING", logger="recipeline"):
        CrossValidation(5, random_state=0).split(selected, task)
    assert "least populated class" in caplog.text


@pytest.mark.parametrize(
    ("splitter", "params", "interface", "key"),
    [
        (TrainTestSplit, {"test_size": 1.5}, {}, "test_size"),
        (TrainTestSplit, {"test_size": 0}, {}, "test_size"),
        (TrainTestSplit, {"stratify": True}, {"task_type": "regression"}, "stratify"),
        (TrainTestSplit, {"refit_on": "al"}, {}, "refit_on"),
        (TrainTestSplit, {"shuffle": False, "stratify": True}, {}, "shuffle"),
        (TrainTestSplit, {}, {"group_col": "shop"}, "method"),
        (CrossValidation, {"folds": 1}, {}, "folds"),
        (GroupSplit, {}, {}, "group_on"),
        (TimeSplit, {}, {}, "time_on"),
        (TimeSplit, {"time_on": "day", "gap": "soon"}, {}, "gap"),
        (TimeSplit, {"time_on": "day", "gap": -1}, {}, "gap"),
        (TimeSeriesSplit, {"time_on": "day", "test_size": 0.2}, {}, "test_size"),
    ],
)
def test_mistakes_are_seen_before_any_data(splitter: Any, params: dict[str, Any], interface: dict[str, Any], key: str) -> None:
    """One problem each, at the key that is wrong; the same arguments without the mistake have none."""
    assert [problem.key for problem in splitter.check(params, interface, "local")] == [(key,)]
    assert splitter.check({"time_on": "day", "group_on": "shop"}, {}, "local") == []
