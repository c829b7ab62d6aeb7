"""Splitters: which rows are sealed, which are fitted on, and the folds inside the training side.

The rows are exactly scikit-learn's for the same arguments. Every split says in its audit what it separated: rows and class
shares on each side, groups that stand on both (none), borders in time, and rows whose features stand on both sides.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from recipeline.contracts import Fold, Selected, Split
from recipeline.errors import DataError, Problem, did_you_mean, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices: TypeAlias = NDArray[np.intp]
    Pair: TypeAlias = tuple[Indices, Indices]
    Hold: TypeAlias = Callable[[Indices], tuple[Indices, Indices | None]]

log = logging.getLogger("recipeline")

RefitOn: TypeAlias = Literal["train", "all"]


class TrainTestSplit:
    """One random cut: `sklearn.model_selection.train_test_split`.

    test_size     share of the rows (0 to 1), or their number
    stratify      keep the shares of the classes on both sides; by default only where the task says what to keep the shares of
    stratify_on   keep the shares of this column's values instead
    shuffle       False: the last rows are the test part
    refit_on      train: the judged pipeline is kept; all: one more is fitted on all rows and kept
    calibration_size   share of the training rows, or their number, held back from fitting: for calibration and early stopping
    """

    def __init__(
        self,
        test_size: float = 0.2,
        *,
        stratify: bool | None = None,
        stratify_on: str | None = None,
        shuffle: bool = True,
        refit_on: RefitOn = "train",
        calibration_size: float = 0,
        random_state: int | None = None,
    ) -> None:
        self.test_size, self.shuffle, self.random_state = test_size, shuffle, random_state
        self.stratify, self.stratify_on, self.refit_on = stratify, stratify_on, refit_on
        self.calibration_size = calibration_size

    def split(self, selected: Selected, task: Any) -> Split:
        from sklearn.model_selection import train_test_split

        wanted = self.shuffle and "strata" in selected.extras if self.stratify is None else self.stratify
        labels = _strata(selected, task, wanted, self.stratify_on)
        with _data_errors():
            train, test = train_test_split(
                np.arange(_rows(selected)), test_size=self.test_size, stratify=labels, shuffle=self.shuffle, random_state=self.random_state
            )
        return _split("train_test_split", selected, [(train, test)], hold=self._hold(selected, labels), refit_on=self.refit_on)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        labels = _strata(selected, task, _labels(selected) is not None, self.stratify_on)
        pairs = _k_fold(selected, folds, labels, None, shuffle=self.shuffle, seed=self.random_state)
        return _folds(pairs, self._hold(selected, labels))

    def _hold(self, selected: Selected, labels: NDArray[Any] | None) -> Hold:
        """The last of the training rows where the rows keep their order, else some drawn by lot."""
        times = None if self.shuffle else np.arange(_rows(selected))
        return partial(_held_back, size=self.calibration_size, labels=labels, times=times, seed=self.random_state)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_size(params), *_check_refit(params), *_check_strata(params, interface), *_check_group_col(interface)]
        problems += _check_series(interface)
        problems += check_calibration(params, interface)
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
    calibration_size   share of the training rows, or their number, held back from fitting: for calibration and early stopping
    """

    def __init__(
        self,
        folds: int = 5,
        *,
        stratify: bool | None = None,
        stratify_on: str | None = None,
        group_on: str | None = None,
        shuffle: bool = True,
        calibration_size: float = 0,
        random_state: int | None = None,
    ) -> None:
        self.folds, self.shuffle, self.random_state = folds, shuffle, random_state
        self.stratify, self.stratify_on, self.group_on = stratify, stratify_on, group_on
        self.calibration_size = calibration_size

    def split(self, selected: Selected, task: Any) -> Split:
        pairs, hold, groups = self._pairs(selected, task, self.folds)
        return _split("cross_validation", selected, pairs, hold=hold, groups=groups, refit_on="all")

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        pairs, hold, _ = self._pairs(selected, task, folds)
        return _folds(pairs, hold)

    def _pairs(self, selected: Selected, task: Any, folds: int) -> tuple[list[Pair], Hold, NDArray[Any] | None]:
        wanted = _labels(selected) is not None if self.stratify is None else self.stratify
        labels = _strata(selected, task, wanted, self.stratify_on)
        groups = _groups(selected, task, self.group_on)
        pairs = _k_fold(selected, folds, labels, groups, shuffle=self.shuffle, seed=self.random_state)
        return pairs, partial(_held_back, size=self.calibration_size, labels=labels, groups=groups, seed=self.random_state), groups

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_folds(params), *_check_strata(params, interface), *check_calibration(params, interface)]
        return [*problems, *_check_series(interface)]


class GroupSplit:
    """One random cut between groups: `sklearn.model_selection.GroupShuffleSplit`.

    test_size   share of the groups (0 to 1), or their number
    group_on    the column whose equal values stay together; `data_interface.group_col` by default
    calibration_size   share of the groups in training, or their number, held back from fitting: for calibration and early stopping
    """

    def __init__(
        self,
        test_size: float = 0.2,
        *,
        group_on: str | None = None,
        refit_on: RefitOn = "train",
        calibration_size: float = 0,
        random_state: int | None = None,
    ) -> None:
        self.test_size, self.group_on, self.refit_on, self.random_state = test_size, group_on, refit_on, random_state
        self.calibration_size = calibration_size

    def split(self, selected: Selected, task: Any) -> Split:
        from sklearn.model_selection import GroupShuffleSplit

        groups = _groups(selected, task, self.group_on, required=True)
        cut = GroupShuffleSplit(1, test_size=self.test_size, random_state=self.random_state)
        with _data_errors():
            pairs = list(cut.split(np.zeros(_rows(selected)), groups=groups))
        return _split("group_split", selected, pairs, hold=self._hold(groups), groups=groups, refit_on=self.refit_on)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        groups = _groups(selected, task, self.group_on, required=True)
        return _folds(_k_fold(selected, folds, None, groups, shuffle=True, seed=self.random_state), self._hold(groups))

    def _hold(self, groups: NDArray[Any] | None) -> Hold:
        return partial(_held_back, size=self.calibration_size, groups=groups, seed=self.random_state)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_size(params), *_check_refit(params), *check_calibration(params, interface)]
        problems += _check_series(interface)
        if not params.get("group_on") and not interface.get("group_col"):
            problems.append(Problem("missing-key", ("group_on",), "group_split needs the column of the groups", "add group_on"))
        return problems


class _InTime:
    """What the methods share that judge by what was known before."""

    time_on: str | None
    gap: int | str
    calibration_size: float

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        times = times_of(selected, task, self.time_on)
        return _folds(_forward(times, folds, self.gap, None), self._hold(times))

    def _hold(self, times: NDArray[Any]) -> Hold:
        return partial(_held_back, size=self.calibration_size, times=times, gap=self.gap)


class TimeSplit(_InTime):
    """The latest rows are sealed; rows of one time stand on one side.

    test_size   share of the rows (0 to 1), or their number; more where the rows at the border share their time
    time_on     the column of the time; `data_interface.timestamp_col` by default
    gap         left out before the border: a number of rows, or a duration as "7D"
    calibration_size   the last share of the training rows, or their number, held back from fitting: for calibration, early stopping
    """

    def __init__(
        self,
        test_size: float = 0.2,
        *,
        time_on: str | None = None,
        gap: int | str = 0,
        refit_on: RefitOn = "train",
        calibration_size: float = 0,
    ) -> None:
        self.test_size, self.time_on, self.gap, self.refit_on = test_size, time_on, gap, refit_on
        self.calibration_size = calibration_size

    def split(self, selected: Selected, task: Any) -> Split:
        times = times_of(selected, task, self.time_on)
        order = np.argsort(times, kind="stable")
        n = len(order)
        sealed = math.ceil(self.test_size * n) if self.test_size < 1 else int(self.test_size)
        if sealed >= n:
            raise DataError(
                f"test_size {self.test_size} leaves no row to fit on, there are {n}", hint="make it smaller", slug="too-few-rows"
            )
        border = times[order[n - sealed]]
        pair = _before(order[times[order] < border], times, border, self.gap), order[times[order] >= border]
        return _split("time_split", selected, [pair], hold=self._hold(times), times=times, refit_on=self.refit_on)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_size(params), *_check_refit(params), *check_time(params, interface), *_check_group_col(interface)]
        return [*problems, *check_calibration(params, interface, forward=True), *_check_series(interface)]


class TimeSeriesSplit(_InTime):
    """Each fold is judged by what was known before it: `sklearn.model_selection.TimeSeriesSplit` on the rows in order of time.

    folds       number of origins, 2 or more
    time_on     the column of the time; `data_interface.timestamp_col` by default
    gap         left out before each fold: a number of rows, or a duration as "7D"
    test_size   rows per fold; equal parts by default
    calibration_size   the last share of the training rows, or their number, held back from fitting: for calibration, early stopping

    Rows with the time of a fold's first row are not fitted on for it. The pipeline kept is fitted on all rows.
    """

    def __init__(
        self,
        folds: int = 5,
        *,
        time_on: str | None = None,
        gap: int | str = 0,
        test_size: int | None = None,
        calibration_size: float = 0,
    ) -> None:
        self.folds, self.time_on, self.gap, self.test_size = folds, time_on, gap, test_size
        self.calibration_size = calibration_size

    def split(self, selected: Selected, task: Any) -> Split:
        times = times_of(selected, task, self.time_on)
        pairs = _forward(times, self.folds, self.gap, self.test_size)
        return _split("time_series_split", selected, pairs, hold=self._hold(times), times=times, refit_on="all")

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_folds(params), *check_time(params, interface), *_check_group_col(interface)]
        problems += check_calibration(params, interface, forward=True)
        problems += _check_series(interface)
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
        if found := re.search(r"least populated class(?:es)? in y ha(?:s|ve) only (\d+) member", str(error)):
            rows = "1 row" if found[1] == "1" else f"{found[1]} rows"
            raise DataError(
                f"the rows cannot be split: the rarest class of the target has {rows}, too few for every side of the split",
                hint="give more rows of it, merge it with another class, or stratify: false",
                slug="too-few-rows",
            ) from error
        raise DataError(
            f"the rows cannot be split: {error}", hint="give more rows, use fewer folds, or stratify: false", slug="too-few-rows"
        ) from error


def _held_back(
    rows: Indices,
    size: float,
    *,
    labels: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    gap: int | str = 0,
    seed: int | None = None,
) -> tuple[Indices, Indices | None]:
    """Training rows apart into those that are fitted on and those held back, by the same rules as the sealed ones."""
    if not size:
        return rows, None
    if times is not None:
        order = rows[np.argsort(times[rows], kind="stable")]
        held = math.ceil(size * len(order)) if size < 1 else int(size)
        if held >= len(order):
            raise DataError(f"calibration_size {size} leaves no row to fit on, there are {len(order)}", slug="too-few-rows")
        border = times[order[len(order) - held]]
        return _before(order[times[order] < border], times, border, gap), order[times[order] >= border]
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    given = float(size) if size < 1 else int(size)
    with _data_errors():
        if groups is not None:
            fitted, kept = next(GroupShuffleSplit(1, test_size=given, random_state=seed).split(rows, groups=groups[rows]))
            return rows[fitted], rows[kept]
        strata = None if labels is None else labels[rows]
        fitted, kept = train_test_split(rows, test_size=given, stratify=strata, random_state=seed)
        return fitted, kept


def _folds(pairs: Sequence[Pair], hold: Hold) -> tuple[Fold, ...]:
    made = []
    for at, (train, test) in enumerate(pairs):
        fitted, held = hold(train)
        made.append(Fold(fitted, test, label=str(at) if len(pairs) > 1 else "", validation=held))
    return tuple(made)


# --- columns that decide ------------------------------------------------------------------------------


def _rows(selected: Selected) -> int:
    return int(selected.X.shape[0]) if hasattr(selected.X, "shape") else len(selected.X)


def _labels(selected: Selected) -> NDArray[Any] | None:
    """What a task wants the shares kept of (n,), `extras["strata"]`; else class codes, which tasks give as integers; None for values."""
    if "strata" in selected.extras:
        return np.asarray(selected.extras["strata"])
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


def times_of(selected: Selected, task: Any, column: str | None) -> NDArray[Any]:
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


def _known_times(selected: Selected) -> NDArray[Any] | None:
    """The times (n,) of rows that are cut without them; None where there are none, or not all can be compared."""
    try:
        return None if selected.times is None else times_of(selected, None, None)
    except DataError:
        return None


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
    hold: Hold,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    refit_on: RefitOn,
) -> Split:
    """The split with its audit.

    Raises DataError where a group stands on both sides of a border: that would be a mistake of ours.
    Warns where rows that have a time are cut without regard to it.
    """
    cut_by_time = times is not None
    times = times if cut_by_time else _known_times(selected)
    hashes = pd.util.hash_pandas_object(selected.X, index=False).to_numpy() if isinstance(selected.X, pd.DataFrame) else None
    folds = _folds(pairs, hold)
    borders = [_border(selected, pair, groups, times, hashes) for pair in pairs]
    for border, fold in zip(borders, folds, strict=True):
        if fold.train is not None and fold.validation is not None:
            border |= {"fitted": len(fold.train), "calibration": len(fold.validation)}
    audit: dict[str, Any] = {
        "method": method,
        "rows": _rows(selected),
        "saved": "the pipeline fitted on all rows" if refit_on == "all" else "the pipeline that was judged",
        "borders": borders,
    }
    for total in ("groups_shared", "duplicates", "not_later"):
        if total in borders[0]:
            audit[total] = sum(border[total] for border in borders)
    if audit.get("groups_shared"):
        raise DataError(f"{audit['groups_shared']} groups stand on both sides of the split", slug="leak")
    if not cut_by_time and audit.get("not_later"):
        log.warning(
            "%d sealed rows are not later than the last row fitted on: %s does not look at the time; "
            "use time_split or time_series_split where the model is to predict what comes later",
            audit["not_later"], method,
        )  # fmt: skip
    if refit_on != "all":
        return Split(folds, keep="last", audit=audit)
    fitted, held = hold(np.arange(_rows(selected)))
    return Split(folds, keep="all", audit=audit, final=None if held is None else Fold(fitted, None, validation=held))


def _border(
    selected: Selected, pair: Pair, groups: NDArray[Any] | None, times: NDArray[Any] | None, hashes: NDArray[Any] | None
) -> dict[str, Any]:
    """What stands on the two sides of one border.

    duplicates  test rows whose features equal those of a training row
    left_out    rows on neither side
    not_later   test rows whose time is not after that of every training row
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
        found["not_later"] = int((times[test] <= times[train].max()).sum())
    return found


def _shares(selected: Selected, labels: NDArray[Any], train: Indices, test: Indices) -> dict[str, dict[str, float]]:
    """Share of each class on each side, by the label as the data have it."""
    codes, first = np.unique(labels, return_index=True)
    raw = labels if "strata" in selected.extras else selected.extras.get("target", labels)
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


def check_calibration(params: Mapping[str, Any], interface: Mapping[str, Any], *, forward: bool = False) -> Iterable[Problem]:
    size = params.get("calibration_size")
    if size is not None and not (_is_number(size) and (0 <= size < 1 or (isinstance(size, int) and size >= 1))):
        yield Problem("bad-value", ("calibration_size",), f"{size!r} is neither a share between 0 and 1 nor a number of rows", at="value")
    elif not size and forward and interface.get("calibration"):
        yield Problem("missing-key", ("calibration_size",), "calibration needs rows of its own where the rows have an order in time",
                      "add calibration_size: 0.2")  # fmt: skip
    elif not size and interface.get("calibration") and interface.get("decision_threshold") == "tune":
        yield Problem("missing-key", ("calibration_size",), "calibration and a tuned threshold together need rows of their own",
                      "add calibration_size: 0.2")  # fmt: skip


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


def _check_series(interface: Mapping[str, Any]) -> Iterable[Problem]:
    if interface.get("task_type") == "forecasting":
        yield Problem("conflict", ("method",), "a forecast is judged from an origin, with the history before it",
                      "use walk_forward or rolling_origin", "value")  # fmt: skip


def _check_group_col(interface: Mapping[str, Any]) -> Iterable[Problem]:
    if interface.get("group_col"):
        yield Problem("conflict", ("method",), "this method would cut through the groups of data_interface.group_col",
                      "use group_split or cross_validation", "value")  # fmt: skip


def check_time(params: Mapping[str, Any], interface: Mapping[str, Any]) -> Iterable[Problem]:
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
