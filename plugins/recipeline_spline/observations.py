"""Rows as they come, checked before anything is made of them: every mistake names series, row, column and value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError, did_you_mean
from recipeline.timeseries.frames import SERIES, TARGET, TIME, Duplicates, coded, stamps_of, text_of

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.timeseries.frames import Layout

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
NonMonotonic = Literal["error", "sort"]

HUGEST = 1e100
"""Numbers beyond this have squares and sums that are no numbers any more."""
ZONE = re.compile(r"\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$")
MOSTLY = 0.5
"""A text column of which more than this share are numbers is a column of numbers with a mistake in it, not of categories."""


@dataclass
class Findings:
    """What was odd about the data and is no error; counts of rows where nothing else is said."""

    rows: int = 0
    series: int = 0
    identical: int = 0
    merged: int = 0
    sorted: int = 0
    outliers: int = 0
    missing: dict[str, float] = field(default_factory=dict)  # share of grid points without a value, by column
    longest_gap: dict[str, Any] = field(default_factory=dict)  # series, steps, after (stamp of the last value), time
    constant: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    padded: list[str] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)  # categories that training had not, by column

    def lines(self) -> list[str]:
        """One sentence for each, most serious first."""
        said = []
        gap = self.longest_gap
        if gap:
            points = "grid point" if gap["steps"] == 1 else "grid points"
            said.append(f"the longest gap has {gap['steps']} {points} ({gap['time']}), in series {gap['series']!r} after {gap['after']}")
        for name, share in self.missing.items():
            if share > 0:
                said.append(f"{name}: {share:.1%} of the grid points have no value")
        counted = (
            (self.identical, "row repeats another one and was left out", "rows repeat another one and were left out"),
            (self.merged, "row shares its series and time stamp with another one and was merged",
             "rows share series and time stamp with another one and were merged"),
            (self.sorted, "row stood after a later one of its series and was sorted",
             "rows stood after a later one of their series and were sorted"),
            (self.outliers, "value lies far from those before it and is not used as input",
             "values lie far from those before them and are not used as inputs"),
        )  # fmt: skip
        said += [f"{count} {one if count == 1 else many}" for count, one, many in counted if count]
        listed = (
            (self.constant, "never changes", "never change"),
            (self.dropped, "is too short and was left out", "are too short and were left out"),
            (self.padded, "is shorter than lookback", "are shorter than lookback"),
        )
        said += [f"series {some(names)} {one if len(names) == 1 else many}" for names, one, many in listed if names]
        said += [f"{column}: {some(values)} unknown from training" for column, values in self.unknown.items() if values]
        return said


@dataclass(frozen=True)
class Observations:
    """Rows by series and time, each series and stamp once.

    names    (S,) ascending            codes   (n,) number of each row's series       stamps  (n,)
    numbers  (n, V) NaN where missing  texts   by column (n,) str, None where missing
    """

    names: NDArray[Any]
    codes: Integers
    stamps: NDArray[Any]
    numbers: Floats
    texts: dict[str, NDArray[np.object_]]

    def only(self, keep: Bools) -> Observations:
        """The series where (S,) `keep` is True."""
        rows, number = keep[self.codes], np.cumsum(keep) - 1
        texts = {name: column[rows] for name, column in self.texts.items()}
        return Observations(self.names[keep], number[self.codes[rows]], self.stamps[rows], self.numbers[rows], texts)


def is_text(column: pd.Series[Any]) -> bool:
    """Whether a covariate is a category rather than a number."""
    if column.dtype.kind in "fiub":  # what is true or false is a number, 1 or 0
        return False
    if column.dtype.name == "category":
        return True
    if column.dtype.kind in "Mm" or hasattr(column.dtype, "tz"):
        raise DataError(f"column {column.name!r}: a covariate is a number or a category, not a time", slug="schema")
    values = [value for value in column.to_numpy(dtype=object) if not _missing(value)]
    return sum(_float(value) is not None for value in values) <= MOSTLY * len(values)


def observations(
    frame: pd.DataFrame,
    layout: Layout,
    *,
    numbers: Sequence[str],
    texts: Sequence[str],
    findings: Findings,
    duplicates: Duplicates = "error",
    non_monotonic: NonMonotonic = "error",
) -> Observations:
    """A long frame, checked. Without `series_id` it is one series, called `target`.

    numbers  the columns wanted as floats, `target` first     texts  those that are categories

    Raises DataError, which names series, row (its label in the index), column and value.
    """
    require(frame, (TIME, *numbers, *texts))
    names, codes = _series(frame)
    seen = _Rows(frame, names, codes)
    stamps = _stamps(frame[TIME], seen, layout)
    matrix = np.column_stack([_numbers(frame[name], name, seen, stamps) for name in numbers])
    words = {name: _texts(frame[name]) for name in texts}
    order = np.arange(len(frame))
    if len(names) > 1:
        order = np.argsort(codes, kind="stable")
    c, s = codes[order], stamps[order]
    together = c[1:] == c[:-1]
    back = together & (s[1:] < s[:-1])
    if back.any():
        if non_monotonic == "error":
            at = int(np.argmax(back))
            raise DataError(
                f"{seen.of(order[at + 1])}: time goes backwards, {text_of(s[at + 1])} after {text_of(s[at])}",
                hint="sort the rows, or choose non_monotonic: sort",
                slug="not-monotonic",
            )
        findings.sorted += int(back.sum())
        order = order[np.lexsort((s, c))]
        c, s = codes[order], stamps[order]
        together = c[1:] == c[:-1]
    if (together & (s[1:] == s[:-1])).any():
        order, matrix = _without_duplicates(order, codes, stamps, matrix, words, numbers, seen, duplicates, findings)
    findings.rows += len(order)
    return Observations(names, codes[order], stamps[order], matrix[order], {name: column[order] for name, column in words.items()})


def parsed_stamps(frame: pd.DataFrame) -> NDArray[Any]:
    """The time stamps (n,) of a long frame whose stamps are texts."""
    require(frame, (TIME,))
    names, codes = _series(frame)
    return _parsed(frame[TIME], _Rows(frame, names, codes))


class _Rows:
    """What a row is called in an error."""

    def __init__(self, frame: pd.DataFrame, names: NDArray[Any], codes: Integers) -> None:
        self.frame, self.names, self.codes = frame, names, codes

    def of(self, row: int | np.integer[Any]) -> str:
        return f"series {str(self.names[self.codes[row]])!r}, row {self.frame.index[int(row)]}"


def require(frame: Any, wanted: Sequence[str]) -> None:
    """DataError unless it is a frame with rows under these names, each of them once."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"a long frame is expected, got {type(frame).__name__}", hint="columns series_id, timestamp, target", slug="schema")
    if not frame.columns.is_unique:
        twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
        raise DataError(f"column {', '.join(twice)} is there twice", hint="rename one of them", slug="duplicate-column")
    for name in wanted:
        if name not in frame.columns:
            raise DataError(f"there is no column {name!r}", hint=did_you_mean(name, map(str, frame.columns)), slug="missing-column")
    if not len(frame):
        raise DataError("there are no rows", hint="give a history", slug="no-rows")


def _series(frame: pd.DataFrame) -> tuple[NDArray[Any], Integers]:
    if SERIES not in frame.columns:
        return np.array([TARGET], dtype=object), np.zeros(len(frame), np.int64)
    column = frame[SERIES]
    array = column.to_numpy()
    if not _missing(array[0]) and bool(np.all(array == array[0])):  # by far the commonest question
        return np.array([array[0]], dtype=object), np.zeros(len(frame), np.int64)
    if column.isna().any():
        raise DataError(f"row {frame.index[int(np.argmax(column.isna()))]}: {SERIES} is null", hint="name the series", slug="null-series")
    codes, names = coded(column)
    return names, codes


def _stamps(column: pd.Series[Any], seen: _Rows, layout: Layout) -> NDArray[Any]:
    if column.dtype.kind in "Mfiu" or hasattr(column.dtype, "tz"):
        stamps = stamps_of(column)
    else:
        stamps = _parsed(column, seen)
    missing = np.isnat(stamps) if stamps.dtype.kind == "M" else ~np.isfinite(stamps)
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(f"{seen.of(row)}: {TIME} is missing", hint="every row has a time stamp", slug="bad-stamps")
    if (stamps.dtype.kind == "M") != isinstance(layout.freq, str):
        what = "dates" if stamps.dtype.kind == "M" else "numbers"
        raise DataError(
            f"time stamps are {what}, and freq is {layout.freq!r}", hint="freq is a number exactly when stamps are", slug="bad-freq"
        )
    return stamps


def _parsed(column: pd.Series[Any], seen: _Rows) -> NDArray[Any]:
    """Texts and objects as datetime64[ns], UTC where they have a zone."""
    import pandas as pd

    values = column.to_numpy(dtype=object)
    given = ~column.isna().to_numpy()
    zoned = np.array([bool(ZONE.search(v.strip()) if isinstance(v, str) else getattr(v, "tzinfo", None)) for v in values])
    mixed = given & (zoned != zoned[int(np.argmax(given))])
    if mixed.any():
        row, other = int(np.argmax(mixed)), int(np.argmax(given))
        raise DataError(
            f"{seen.of(row)}: {TIME} {_shown(values[row])} has {'a' if zoned[row] else 'no'} time zone, {_shown(values[other])} has "
            f"{'one' if zoned[other] else 'none'}",
            hint="give all time stamps with a zone, or none",
            slug="mixed-zones",
        )
    stamps = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
    bad = given & stamps.isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{seen.of(row)}: {TIME} {_shown(values[row])} is no time", hint="write 2024-12-31T23:00:00", slug="bad-stamps")
    return stamps_of(stamps)


def _numbers(column: pd.Series[Any], name: str, seen: _Rows, stamps: NDArray[Any]) -> Floats:
    if column.dtype.kind in "fiub" and isinstance(column.dtype, np.dtype):
        values = column.to_numpy(dtype=np.float64)
    else:
        values = np.full(len(column), np.nan)
        for row, value in enumerate(column.to_numpy(dtype=object)):
            if _missing(value):
                continue
            number = _float(value)
            if number is None:
                plain = isinstance(value, str) and _float(value.replace(",", "")) is not None
                hint = "write numbers without separators of thousands" if plain else "leave the cell empty where nothing was observed"
                raise DataError(f"{seen.of(row)}: {name} {_shown(value)} is no number", hint=hint, slug="not-a-number")
            values[row] = number
    with np.errstate(invalid="ignore"):
        bad = np.abs(values) > HUGEST
    if bad.any():
        row = int(np.argmax(bad))
        what = "is infinite" if np.isinf(values[row]) else "is too large to reckon with"
        raise DataError(
            f"{seen.of(row)} ({text_of(stamps[row])}): {name} {values[row]:g} {what}",
            hint="leave it empty where it was not observed",
            slug="infinite" if np.isinf(values[row]) else "too-large",
        )
    return values


def _texts(column: pd.Series[Any]) -> NDArray[np.object_]:
    values = np.empty(len(column), dtype=object)
    values[:] = [None if _missing(value) else str(value) for value in column.to_numpy(dtype=object)]
    return values


def is_given(values: NDArray[np.object_]) -> Bools:
    """Where a text (n,) is not missing."""
    return np.array([value is not None for value in values], dtype=bool)


def _without_duplicates(
    order: Integers, codes: Integers, stamps: NDArray[Any], matrix: Floats, words: dict[str, NDArray[np.object_]],
    names: Sequence[str], seen: _Rows, how: Duplicates, findings: Findings,
) -> tuple[Integers, Floats]:  # fmt: skip
    """The rows that stay, and the numbers, of which those may have become means; `order` is by series and time."""
    import pandas as pd

    content = {"series": codes[order], "stamp": stamps[order], **{f"number {i}": matrix[order, i] for i in range(matrix.shape[1])}}
    content |= {f"text {name}": column[order] for name, column in words.items()}
    again = pd.DataFrame(content).duplicated().to_numpy()
    findings.identical += int(again.sum())
    order = order[~again]
    c, s = codes[order], stamps[order]
    same = (c[1:] == c[:-1]) & (s[1:] == s[:-1])
    if not same.any():
        return order, matrix
    if how == "error":
        at = int(np.argmax(same))
        one, other = order[at], order[at + 1]
        a, b = matrix[one], matrix[other]
        differing = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
        if len(differing):
            column = int(differing[0])
            what = f"{names[column]} {b[column]:g}, and {a[column]:g} in row {seen.frame.index[one]}"
        else:
            name = next(name for name, column in words.items() if column[one] != column[other])
            what = f"{name} {_shown(words[name][other])}, and {_shown(words[name][one])} in row {seen.frame.index[one]}"
        more = f" ({int(same.sum())} such pairs)" if same.sum() > 1 else ""
        raise DataError(
            f"{seen.of(other)}: {text_of(s[at + 1])} is there twice, with {what}{more}",
            hint="keep one row per series and time stamp, or choose duplicates: last or mean; local times repeat an hour when summer "
            "time ends: give them with their zone",
            slug="duplicate-stamps",
        )
    findings.merged += int(same.sum())
    final = np.append(~same, True)
    if how == "mean":
        group = np.concatenate([[0], np.cumsum(~same)])
        matrix = matrix.copy()
        for column in range(matrix.shape[1]):
            known = ~np.isnan(matrix[order, column])
            count = np.bincount(group[known], minlength=group[-1] + 1)
            total = np.bincount(group[known], weights=matrix[order[known], column], minlength=group[-1] + 1)
            matrix[order[final], column] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return order[final], matrix


def _missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")  # NaN differs from itself


def _float(value: Any) -> float | None:
    if isinstance(value, str) and ("_" in value or not value.strip()):  # Python reads 1_000; no file means it
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _shown(value: Any) -> str:
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:57]}…'"


def some(names: Sequence[Any]) -> str:
    """The first five, and how many more there are."""
    shown = ", ".join(repr(str(name)) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
