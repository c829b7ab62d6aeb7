"""Splitters: which rows are sealed, which are fitted on, and the folds inside the training side.

The rows are exactly scikit-learn's for the same arguments. Every split says in its audit what it separated: rows and class
shares on each side, groups that stand on both (none), borders in time, and rows whose features stand on both sides.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from recipeline.contracts import Fold, Selected, Split
from recipeline.errors import DataError, Problem, did_you_mean, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices: TypeAlias = NDArray[np.intp]
    Pair: TypeAlias = tuple[Indices, Indices]

log = logging.getLogger("recipeline")

RefitOn: TypeAlias = Literal["train", "all"]


class TrainTestSplit:
    """One random cut: `sklearn.model_selection.train_test_split`.

    test_size     share of the rows (0 to 1), or their number
    stratify      keep the shares of the classes on both sides
    stratify_on   keep the shares of this column's values instead
    shuffle       False: the last rows are the test part
    refit_on      train: the judged pipeline is kept; all: one more is fitted on all rows and kept
    """

    def __init__(
        self,
        test_size: float = 0.2,
        *,
        stratify: bool = False,
        stratify_on: str | None = None,
        shuffle: bool = True,
        refit_on: RefitOn = "train",
        random_state: int | None = None,
    ) -> None:
        self.test_size, self.shuffle, self.random_state = test_size, shuffle, random_state
        self.stratify, self.stratify_on, self.refit_on = stratify, stratify_on, refit_on

    def split(self, selected: Selected, task: Any) -> Split:
        from sklearn.model_selection import train_test_split

        labels = _strata(selected, task, self.stratify, self.stratify_on)
        with _data_errors():
            train, test = train_test_split(
                np.arange(_rows(selected)), test_size=self.test_size, stratify=labels, shuffle=self.shuffle, random_state=self.random_state
            )
        return _split("train_test_split", selected, [(train, test)], refit_on=self.refit_on)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        labels = _strata(selected, task, _labels(selected) is not None, self.stratify_on)
        return _folds(_k_fold(selected, folds, labels, None, shuffle=self.shuffle, seed=self.random_state))

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_size(params), *_check_refit(params), *_check_strata(params, interface), *_check_group_col(interface)]
        if params.get("shuffle") is False and (params.get("stratify") or params.get("stratify_on")):
            problems.append(
                Problem("conflict", ("shuffle",), "rows in their order cannot be stratified", "leave one of the two out", "value")
            )
        return problems


class CrossValidation:
    """Every row is judged once, by a pipeline that did not see it; the pipeline kept is fitted on all rows.

    folds         number of parts, 2 or more
    stratify      keep the shares of the classes in every fold; by default wherever the target has classes
    stratify_on   keep the shares of this column's values instead
    group_on      rows with one value of this column stay together; `data_interface.group_col` by default
    shuffle       False: folds are cut in the order of the data, as scikit-learn does by default
    """

    def __init__(
        self,
        folds: int = 5,
        *,
        stratify: bool | None = None,
        stratify_on: str | None = None,
        group_on: str | None = None,
        shuffle: bool = True,
        random_state: int | None = None,
    ) -> None:
        self.folds, self.shuffle, self.random_state = folds, shuffle, random_state
        self.stratify, self.stratify_on, self.group_on = stratify, stratify_on, group_on

    def split(self, selected: Selected, task: Any) -> Split:
        groups = _groups(selected, task, self.group_on)
        return _split("cross_validation", selected, self._pairs(selected, task, self.folds), groups=groups, refit_on="all")

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        return _folds(self._pairs(selected, task, folds))

    def _pairs(self, selected: Selected, task: Any, folds: int) -> list[Pair]:
        wanted = _labels(selected) is not None if self.stratify is None else self.stratify
        labels = _strata(selected, task, wanted, self.stratify_on)
        return _k_fold(selected, folds, labels, _groups(selected, task, self.group_on), shuffle=self.shuffle, seed=self.random_state)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        return [*_check_folds(params), *_check_strata(params, interface)]


class GroupSplit:
    """One random cut between groups: `sklearn.model_selection.GroupShuffleSplit`.

    test_size   share of the groups (0 to 1), or their number
    group_on    the column whose equal values stay together; `data_interface.group_col` by default
    """

    def __init__(
        self, test_size: float = 0.2, *, group_on: str | None = None, refit_on: RefitOn = "train", random_state: int | None = None
    ) -> None:
        self.test_size, self.group_on, self.refit_on, self.random_state = test_size, group_on, refit_on, random_state

    def split(self, selected: Selected, task: Any) -> Split:
        from sklearn.model_selection import GroupShuffleSplit

        groups = _groups(selected, task, self.group_on, required=True)
        cut = GroupShuffleSplit(1, test_size=self.test_size, random_state=self.random_state)
        with _data_errors():
            pairs = list(cut.split(np.zeros(_rows(selected)), groups=groups))
        return _split("group_split", selected, pairs, groups=groups, refit_on=self.refit_on)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        groups = _groups(selected, task, self.group_on, required=True)
        return _folds(_k_fold(selected, folds, None, groups, shuffle=True, seed=self.random_state))

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_size(params), *_check_refit(params)]
        if not params.get("group_on") and not interface.get("group_col"):
            problems.append(Problem("missing-key", ("group_on",), "group_split needs the column of the groups", "add group_on"))
        return problems


class TimeSplit:
    """The latest rows are sealed; rows of one time stand on one side.

    test_size   share of the rows (0 to 1), or their number; more where the rows at the border share their time
    time_on     the column of the time; `data_interface.timestamp_col` by default
    gap         left out before the border: a number of rows, or a duration as "7D"
    """

    def __init__(self, test_size: float = 0.2, *, time_on: str | None = None, gap: int | str = 0, refit_on: RefitOn = "train") -> None:
        self.test_size, self.time_on, self.gap, self.refit_on = test_size, time_on, gap, refit_on

    def split(self, selected: Selected, task: Any) -> Split:
        times = _times(selected, task, self.time_on)
        order = np.argsort(times, kind="stable")
        n = len(order)
        sealed = math.ceil(self.test_size * n) if self.test_size < 1 else int(self.test_size)
        if sealed >= n:
            raise DataError(
                f"test_size {self.test_size} leaves no row to fit on, there are {n}", hint="make it smaller", slug="too-few-rows"
            )
        border = times[order[n - sealed]]
        pair = _before(order[times[order] < border], times, border, self.gap), order[times[order] >= border]
        return _split("time_split", selected, [pair], times=times, refit_on=self.refit_on)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        return _folds(_forward(_times(selected, task, self.time_on), folds, self.gap, None))

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        return [*_check_size(params), *_check_refit(params), *_check_time(params, interface), *_check_group_col(interface)]


class TimeSeriesSplit:
    """Each fold is judged by what was known before it: `sklearn.model_selection.TimeSeriesSplit` on the rows in order of time.

    folds       number of origins, 2 or more
    time_on     the column of the time; `data_interface.timestamp_col` by default
    gap         left out before each fold: a number of rows, or a duration as "7D"
    test_size   rows per fold; equal parts by default

    Rows with the time of a fold's first row are not fitted on for it. The pipeline kept is fitted on all rows.
    """

    def __init__(self, folds: int = 5, *, time_on: str | None = None, gap: int | str = 0, test_size: int | None = None) -> None:
        self.folds, self.time_on, self.gap, self.test_size = folds, time_on, gap, test_size

    def split(self, selected: Selected, task: Any) -> Split:
        times = _times(selected, task, self.time_on)
        return _split("time_series_split", selected, _forward(times, self.folds, self.gap, self.test_size), times=times, refit_on="all")

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        return _folds(_forward(_times(selected, task, self.time_on), folds, self.gap, None))

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_folds(params), *_check_time(params, interface), *_check_group_col(interface)]
        size = params.get("test_size")
        if size is not None and (not _is_number(size) or int(size) != size or size < 1):
            problems.append(Problem("bad-value", ("test_size",), "a number of rows, 1 or more, expected", at="value"))
        return problems


# --- cutting ----------------------------------------------------------------------------------------


def _k_fold(
    selected: Selected, folds: int, labels: NDArray[Any] | None, groups: NDArray[Any] | None, *, shuffle: bool, seed: int | None
) -> list[Pair]:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    kind = {(False, False): KFold, (True, False): StratifiedKFold, (False, True): GroupKFold, (True, True): StratifiedGroupKFold}[
        labels is not None, groups is not None
    ]
    cut = kind(folds, shuffle=shuffle, random_state=seed if shuffle else None)
    with _data_errors(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pairs = list(cut.split(np.zeros(_rows(selected)), labels, groups))
    for warning in said:  # scikit-learn tells of classes with fewer rows than there are folds
        log.warning("%s", warning.message)
    empty = [at for at, (train, test) in enumerate(pairs) if not len(train) or not len(test)]
    if empty:
        raise DataError(f"fold {empty[0]} of {folds} has no rows", hint="use fewer folds", slug="too-few-rows")
    return pairs


def _forward(times: NDArray[Any], folds: int, gap: int | str, test_size: int | None) -> list[Pair]:
    from sklearn.model_selection import TimeSeriesSplit as Forward

    order = np.argsort(times, kind="stable")
    with _data_errors():
        cut = list(Forward(folds, test_size=test_size).split(order))
    pairs = []
    for train, test in cut:
        first = times[order[test[0]]]
        past = order[train]
        pairs.append((_before(past[times[past] < first], times, first, gap), order[test]))
    return pairs


def _before(past: Indices, times: NDArray[Any], border: Any, gap: int | str) -> Indices:
    """The rows before the border, in order of time, without the gap."""
    if isinstance(gap, str):
        if times.dtype.kind != "M":
            raise DataError(f"gap {gap!r} is a duration, and the time column holds numbers", hint="give a number of rows", slug="bad-time")
        kept = past[times[past] < border - pd.Timedelta(gap).to_timedelta64()]
    else:
        kept = past[: max(len(past) - gap, 0)]
    if not len(kept):
        raise DataError("no row is left before the border in time", hint="make gap, test_size or folds smaller", slug="too-few-rows")
    return np.asarray(kept)


@contextmanager
def _data_errors() -> Iterator[None]:
    """scikit-learn's ValueError about too few rows or class members, as a data error with its words."""
    try:
        yield
    except ValueError as error:
        raise DataError(
            f"the rows cannot be split: {error}", hint="give more rows, use fewer folds, or stratify: false", slug="too-few-rows"
        ) from error


def _folds(pairs: Sequence[Pair]) -> tuple[Fold, ...]:
    return tuple(Fold(train, test, label=str(at)) for at, (train, test) in enumerate(pairs))


# --- columns that decide ------------------------------------------------------------------------------


def _rows(selected: Selected) -> int:
    return int(selected.X.shape[0]) if hasattr(selected.X, "shape") else len(selected.X)


def _labels(selected: Selected) -> NDArray[Any] | None:
    """Class codes (n,), which tasks give as integers; None for values."""
    y = selected.y
    return y if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "iub" else None


def _strata(selected: Selected, task: Any, wanted: bool, column: str | None) -> NDArray[Any] | None:
    if column is not None:
        return _column(selected, task, column, "stratify_on")
    if not wanted:
        return None
    labels = _labels(selected)
    if labels is None:
        raise DataError("stratify needs a target with classes", hint="use stratify_on with a column of categories", slug="no-classes")
    return labels


def _groups(selected: Selected, task: Any, column: str | None, *, required: bool = False) -> NDArray[Any] | None:
    groups = selected.groups if column is None else _column(selected, task, column, "group_on")
    if groups is None and required:
        raise DataError("there are no groups", hint="name their column in group_on", slug="missing-column")
    if groups is not None and pd.isna(groups).any():
        raise DataError(f"the group column has {int(pd.isna(groups).sum())} nulls", hint="every row needs its group", slug="null-group")
    return groups


def _times(selected: Selected, task: Any, column: str | None) -> NDArray[Any]:
    """(n,) numbers or datetime64, without nulls."""
    given = selected.times if column is None else _column(selected, task, column, "time_on")
    if given is None:
        raise DataError("there is no time column", hint="name it in time_on or data_interface.timestamp_col", slug="missing-column")
    values = np.asarray(given)
    if values.dtype.kind not in "iufM":
        try:
            values = pd.to_datetime(pd.Series(given), utc=True).to_numpy(dtype="datetime64[ns]")
        except (TypeError, ValueError) as error:
            raise DataError(f"the time column holds what is no time: {error}", hint="write times as ISO 8601", slug="bad-time") from error
    nulls = int(pd.isna(values).sum())
    if nulls:
        raise DataError(f"the time column has {nulls} nulls", hint="every row needs its time", slug="bad-time")
    return values


def _column(selected: Selected, task: Any, name: str, key: str) -> NDArray[Any]:
    """A column that the recipe names, wherever the task put it: keys, features, groups, times or the target."""
    interface = task.interface
    known: list[str] = []
    for frame in (selected.keys, selected.X):
        if isinstance(frame, pd.DataFrame):
            if name in frame.columns:
                return np.asarray(frame[name].to_numpy())
            known += [str(column) for column in frame.columns]
    aside = {interface.group_col: selected.groups, interface.timestamp_col: selected.times}
    if len(interface.targets) == 1:
        aside[interface.targets[0]] = selected.extras.get("target")
    if aside.get(name) is not None:
        return np.asarray(aside[name])
    raise DataError(f"{key}: the data have no column {name!r}", hint=did_you_mean(name, known), slug="missing-column")


# --- audit --------------------------------------------------------------------------------------------


def _split(
    method: str,
    selected: Selected,
    pairs: Sequence[Pair],
    *,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    refit_on: RefitOn,
) -> Split:
    """The split with its audit.

    Raises DataError where a group stands on both sides of a border: that would be a mistake of ours.
    """
    hashes = pd.util.hash_pandas_object(selected.X, index=False).to_numpy() if isinstance(selected.X, pd.DataFrame) else None
    borders = [_border(selected, pair, groups, times, hashes) for pair in pairs]
    audit: dict[str, Any] = {
        "method": method,
        "rows": _rows(selected),
        "saved": "the pipeline fitted on all rows" if refit_on == "all" else "the pipeline that was judged",
        "borders": borders,
    }
    for total in ("groups_shared", "duplicates"):
        if total in borders[0]:
            audit[total] = sum(border[total] for border in borders)
    if audit.get("groups_shared"):
        raise DataError(f"{audit['groups_shared']} groups stand on both sides of the split", slug="leak")
    return Split(_folds(pairs) if len(pairs) > 1 else (Fold(*pairs[0]),), keep="all" if refit_on == "all" else "last", audit=audit)


def _border(
    selected: Selected, pair: Pair, groups: NDArray[Any] | None, times: NDArray[Any] | None, hashes: NDArray[Any] | None
) -> dict[str, Any]:
    """What stands on the two sides of one border.

    duplicates  test rows whose features equal those of a training row
    left_out    rows on neither side
    """
    train, test = pair
    found: dict[str, Any] = {"train": len(train), "test": len(test), "left_out": _rows(selected) - len(train) - len(test)}
    if hashes is not None:
        found["duplicates"] = int(np.isin(hashes[test], hashes[train]).sum())
    labels = _labels(selected)
    if labels is not None:
        found["classes"] = _shares(selected, labels, train, test)
    if groups is not None:
        one, other = pd.unique(groups[train]), pd.unique(groups[test])
        found |= {"train_groups": len(one), "test_groups": len(other), "groups_shared": int(np.isin(other, one).sum())}
    if times is not None:
        found |= {"train_until": str(times[train].max()), "test_from": str(times[test].min())}
    return found


def _shares(selected: Selected, labels: NDArray[Any], train: Indices, test: Indices) -> dict[str, dict[str, float]]:
    """Share of each class on each side, by the label as the data have it."""
    codes, first = np.unique(labels, return_index=True)
    raw = selected.extras.get("target", labels)
    return {
        str(raw[at]): {"train": float(np.mean(labels[train] == code)), "test": float(np.mean(labels[test] == code))}
        for code, at in zip(codes, first, strict=True)
    }


# --- mistakes that need no data -------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_size(params: Mapping[str, Any]) -> Iterable[Problem]:
    size = params.get("test_size")
    if size is not None and not (_is_number(size) and (0 < size < 1 or (isinstance(size, int) and size >= 1))):
        yield Problem("bad-value", ("test_size",), f"{size!r} is neither a share between 0 and 1 nor a number of rows", at="value")


def _check_folds(params: Mapping[str, Any]) -> Iterable[Problem]:
    folds = params.get("folds")
    if folds is not None and not (isinstance(folds, int) and not isinstance(folds, bool) and folds >= 2):
        yield Problem("bad-value", ("folds",), f"{folds!r} is not a number of folds, 2 or more", at="value")


def _check_refit(params: Mapping[str, Any]) -> Iterable[Problem]:
    refit = params.get("refit_on")
    if refit is not None and refit not in ("train", "all"):
        yield Problem("bad-value", ("refit_on",), f"{refit!r} is not one of train, all", "", "value", nearest(str(refit), ("train", "all")))


def _check_strata(params: Mapping[str, Any], interface: Mapping[str, Any]) -> Iterable[Problem]:
    stratify = params.get("stratify")
    if stratify is not None and not isinstance(stratify, bool):
        yield Problem("bad-value", ("stratify",), "true or false expected", "name a column in stratify_on", "value")
    elif stratify and interface.get("task_type") == "regression" and not params.get("stratify_on"):
        yield Problem("conflict", ("stratify",), "regression has no classes", "use stratify_on with a column of categories", "value")


def _check_group_col(interface: Mapping[str, Any]) -> Iterable[Problem]:
    if interface.get("group_col"):
        yield Problem("conflict", ("method",), "this method would cut through the groups of data_interface.group_col",
                      "use group_split or cross_validation", "value")  # fmt: skip


def _check_time(params: Mapping[str, Any], interface: Mapping[str, Any]) -> Iterable[Problem]:
    if not params.get("time_on") and not interface.get("timestamp_col"):
        yield Problem("missing-key", ("time_on",), "the column of the time is needed", "add time_on, or data_interface.timestamp_col")
    gap = params.get("gap")
    if isinstance(gap, str):
        try:
            valid = pd.Timedelta(gap) >= pd.Timedelta(0)
        except ValueError:
            valid = False
        if not valid:
            yield Problem("bad-value", ("gap",), f"{gap!r} is not a duration", 'write it as "7D" or "12h"', "value")
    elif gap is not None and (not isinstance(gap, int) or isinstance(gap, bool) or gap < 0):
        yield Problem("bad-value", ("gap",), f"{gap!r} is not a number of rows or a duration", at="value")
