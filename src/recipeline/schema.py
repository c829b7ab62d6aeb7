"""The input contract: which columns a prediction needs, of which type, and what happens to rows that differ.

Extra columns are ignored and counted; a column is optional and nullable exactly when training had nulls; integers widen
to floats; anything else is a `DataError` that names the column, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from recipeline.errors import DataError, did_you_mean, nearest

if TYPE_CHECKING:
    import pandas as pd

DTYPES = ("int64", "float64", "bool", "string", "datetime", "datetime_utc")
CATEGORIES_KEPT = 200
"""A text column with at most so many different values in training has them written into the contract, as documentation."""


@dataclass(frozen=True)
class Column:
    """One column of the contract.

    dtype     one of `DTYPES`; all integers are int64, all floats float64, all text and categories string
    nullable  training had nulls; such a column may also be missing altogether
    role      "feature": the model uses it; "key": it names the row in the output, may be missing, is never checked
    """

    name: str
    dtype: str
    nullable: bool = False
    role: Literal["feature", "key"] = "feature"
    categories: tuple[str, ...] | None = None
    example: Any = None

    @property
    def optional(self) -> bool:
        return self.nullable or self.role == "key"


@dataclass(frozen=True)
class InputSchema:
    """Columns in the order of training, and what the task wants to remember of its target.

    target  JSON-like; classification keeps names, dtype and sorted classes there
    extras  JSON-like; whatever else a task needs at prediction. `example`: records that can be predicted from, where one row
            with the example of each column cannot
    """

    columns: tuple[Column, ...]
    target: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.role == "feature")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.role == "key")

    def only(self, features: Iterable[str]) -> InputSchema:
        """The contract without the features that are not among these; a model that never reads a column need not ask for it."""
        read = set(features)
        kept = tuple(column for column in self.columns if column.role == "key" or column.name in read)
        return self if len(kept) == len(self.columns) else InputSchema(kept, self.target, self.extras)

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(f"the input contract has no column {name!r}", hint=did_you_mean(name, self.names), slug="schema")

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write; the form of `input_schema.json`."""
        return {
            "columns": [
                {
                    "name": c.name,
                    "dtype": c.dtype,
                    "nullable": c.nullable,
                    "role": c.role,
                    **({"categories": list(c.categories)} if c.categories is not None else {}),
                    **({"example": c.example} if c.example is not None else {}),
                }
                for c in self.columns
            ],
            "target": dict(self.target),
            "extras": dict(self.extras),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputSchema:
        return cls(
            tuple(
                Column(
                    name=c["name"],
                    dtype=c["dtype"],
                    nullable=c["nullable"],
                    role=c["role"],
                    categories=tuple(c["categories"]) if "categories" in c else None,
                    example=c.get("example"),
                )
                for c in data["columns"]
            ),
            data["target"],
            data["extras"],
        )

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str],
        *,
        keys: Iterable[str] = (),
        target: Mapping[str, Any] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> InputSchema:
        """The contract that training data (n, ·) sets; columns keep the order of the frame."""
        wanted, named = set(features), set(keys)
        columns = []
        for position, name in enumerate(frame.columns):
            if name in wanted or name in named:
                role: Literal["feature", "key"] = "key" if name in named else "feature"
                columns.append(_describe(str(name), frame.iloc[:, position], role))
        return cls(tuple(columns), dict(target or {}), dict(extras or {}))

    def extra_columns(self, frame: pd.DataFrame) -> list[str]:
        """Columns of a frame that prediction does not use."""
        known = {*self.names, *self.target.get("names", ())}
        return [str(name) for name in frame.columns if name not in known]

    @cached_property
    def _plain(self) -> bool:
        """All features are numbers: the case that is checked at once, not column by column."""
        return bool(self.features) and all(column.role == "key" or column.dtype in {"float64", "int64"} for column in self.columns)

    def _fits(self, frame: pd.DataFrame) -> bool:
        """Exactly the columns of training, all numbers of its very types, all finite; False says nothing."""
        import numpy as np

        if not self._plain or tuple(frame.columns) != self.names:
            return False
        if any(column.role == "feature" and dtype != column.dtype for dtype, column in zip(frame.dtypes, self.columns, strict=True)):
            return False
        numbers = frame if len(self.features) == len(self.names) else frame[list(self.features)]
        return bool(np.isfinite(numbers.to_numpy()).all())

    def conform(self, frame: pd.DataFrame, *, source: str = "data") -> pd.DataFrame:
        """The frame as training had it: columns in its order and of its types; the frame given is left alone.

        Raises DataError (slug `schema`) with every column that breaks the contract.
        """
        import pandas as pd

        if not hasattr(frame, "columns"):
            raise DataError(f"a frame is expected, got {type(frame).__name__}", hint="pandas.DataFrame(rows)", slug="schema", where=source)
        if self._fits(frame):
            return frame
        if not frame.columns.is_unique:
            twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
            raise DataError(f"column {', '.join(twice)} is there twice", hint="rename one of them", slug="duplicate-column", where=source)
        present = {name: position for position, name in enumerate(frame.columns)}
        ready: dict[str, Any] = {}
        untouched = True
        wrong: list[str] = []
        for column in self.columns:
            if column.name not in present:
                if column.role == "key":
                    untouched = False
                elif column.nullable:
                    ready[column.name] = _nulls(column, len(frame), frame.index)
                    untouched = False
                else:
                    near = nearest(column.name, (str(name) for name in frame.columns if name not in self.names))
                    wrong.append(f"column {column.name!r} is missing, {_kind(column)} expected" + (f" (is it {near!r}?)" if near else ""))
                continue
            values = frame.iloc[:, present[column.name]]
            if column.role == "key":
                ready[column.name] = values
                continue
            try:
                checked = _conform(column, values)
            except DataError as error:
                wrong.append(error.message)
                continue
            untouched = untouched and checked is values
            ready[column.name] = checked
        if wrong:
            raise DataError("; ".join(wrong), hint="give the columns as training had them", slug="schema", where=source)
        if untouched:
            return frame if list(frame.columns) == list(self.names) else frame[list(self.names)]
        return pd.DataFrame(ready, index=frame.index)


def dtype_of(values: pd.Series[Any]) -> str:
    """Which of `DTYPES` a column is.

    Raises DataError for what no model can take: mixed objects, bytes, time spans, complex numbers.
    """
    import pandas as pd

    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        kind = dtype_of(values.cat.categories.to_series())
        return "float64" if kind == "int64" and values.hasnans else kind
    if pd.api.types.is_bool_dtype(dtype):
        return "bool"
    if pd.api.types.is_integer_dtype(dtype):
        return "float64" if values.hasnans else "int64"
    if pd.api.types.is_float_dtype(dtype):
        return "float64"
    if isinstance(dtype, pd.DatetimeTZDtype):
        return "datetime_utc"
    if pd.api.types.is_datetime64_dtype(dtype):
        return "datetime"
    if isinstance(dtype, pd.ArrowDtype) and (known := _arrow_kind(dtype)):
        return known
    if pd.api.types.is_string_dtype(dtype) and not pd.api.types.is_object_dtype(dtype):
        return "string"
    if pd.api.types.is_object_dtype(dtype):
        kind = pd.api.types.infer_dtype(values, skipna=True)
        found = {
            "string": "string",
            "empty": "float64",
            "boolean": "bool",
            "integer": "float64" if values.isna().any() else "int64",
            "floating": "float64",
            "mixed-integer-float": "float64",
            "decimal": "float64",
            "date": "datetime",
            "datetime": "datetime",
            "datetime64": "datetime",
        }.get(kind)
        if found:
            return found
        raise DataError(
            f"column {values.name!r} holds {kind} objects", hint="make it numbers, text, booleans or time stamps", slug="schema"
        )
    raise DataError(f"column {values.name!r} is of type {dtype}", hint="make it numbers, text, booleans or time stamps", slug="schema")


def _arrow_kind(dtype: pd.ArrowDtype) -> str | None:
    """Which of `DTYPES` time stamps, dates and decimals of Arrow are; pandas itself tells the other types of Arrow by their kind."""
    import pyarrow as pa

    arrow = dtype.pyarrow_dtype
    if pa.types.is_timestamp(arrow):
        return "datetime" if arrow.tz is None else "datetime_utc"
    if pa.types.is_date(arrow):
        return "datetime"
    return "float64" if pa.types.is_decimal(arrow) else None


def _kind(column: Column) -> str:
    return f"nullable {column.dtype}" if column.nullable else column.dtype


def _describe(name: str, values: pd.Series[Any], role: Literal["feature", "key"]) -> Column:
    dtype = dtype_of(values)
    nulls = bool(values.isna().any())
    categories = None
    if dtype == "string" and role == "feature":
        different = values.dropna().unique()
        if len(different) <= CATEGORIES_KEPT:
            categories = tuple(sorted(str(value) for value in different))
    return Column(name, dtype, nulls, role, categories, _example(values.dropna(), dtype) if role == "feature" else None)


def _example(known: pd.Series[Any], dtype: str) -> Any:
    """A value in the middle of a column, as JSON has it; column by column, so that the example is nobody's row."""
    if not len(known):
        return None
    if dtype in {"string", "bool"}:
        return _plain(known.astype(str).mode().iloc[0] if dtype == "string" else known.mode().iloc[0], dtype)
    return _plain(known.sort_values().iloc[len(known) // 2], dtype)


def _plain(value: Any, dtype: str) -> Any:
    """A value as JSON has it."""
    if dtype in {"datetime", "datetime_utc"}:
        return value.isoformat()
    if dtype == "string":
        return str(value)
    return {"int64": int, "float64": float, "bool": bool}[dtype](value)


def _nulls(column: Column, n: int, index: Any) -> Any:
    import numpy as np
    import pandas as pd

    if column.dtype == "string":
        return pd.Series([None] * n, index=index, dtype=object)
    if column.dtype == "datetime":
        return pd.Series(np.full(n, np.datetime64("NaT"), dtype="datetime64[ns]"), index=index)
    if column.dtype == "datetime_utc":
        return pd.Series(pd.DatetimeIndex([pd.NaT] * n, tz="UTC"), index=index)
    return pd.Series(np.full(n, np.nan), index=index)


def _conform(column: Column, values: pd.Series[Any]) -> pd.Series[Any]:
    """The values in the type of the contract; the very same object where nothing had to change."""
    import numpy as np
    import pandas as pd

    if column.dtype == "float64" and values.dtype == np.float64:
        return _finite(column, values)
    if column.dtype == "int64" and values.dtype == np.int64:
        return values
    if column.nullable and values.isna().all():
        empty: pd.Series[Any] = _nulls(column, len(values), values.index)
        return empty  # a column of nothing but nulls has no type of its own
    got = column.dtype if len(values) == 0 else dtype_of(values)
    if got != column.dtype and (got, column.dtype) != ("int64", "float64"):
        odd = no_number(values) if column.dtype in ("float64", "int64") else no_time(values) if column.dtype.startswith("datetime") else ""
        raise DataError(f"column {column.name!r}: {_kind(column)} expected, got {got}{odd}")
    if column.dtype == "float64":
        numbers = pd.to_numeric(values) if values.dtype == object else values
        return _finite(column, _series(numbers.to_numpy(np.float64, na_value=np.nan), values))
    nulls = values.isna()
    if nulls.any() and not column.nullable:
        row = int(np.flatnonzero(nulls.to_numpy())[0])
        raise DataError(f"column {column.name!r}: {column.dtype} expected, got {int(nulls.sum())} nulls, the first in row {row}")
    return _exact(column, values, nulls)


def no_number(values: pd.Series[Any]) -> str:
    """The first text of a column that is no number, in words for an error; nothing where there is none."""
    import pandas as pd

    for row, value in enumerate(values):
        if isinstance(value, str) and pd.isna(pd.to_numeric(value, errors="coerce")):
            return f"; the first is {_told(value)} in row {row}"
    return ""


def no_time(values: pd.Series[Any]) -> str:
    """The first text of a column that is no time, or has a time zone where the texts before it have none (or none where they have one),
    in words for an error; nothing where there is none."""
    import pandas as pd

    zoned: bool | None = None
    for row, value in enumerate(values):
        if not isinstance(value, str):
            continue
        try:
            stamp = pd.Timestamp(value)
        except ValueError:
            return f"; the first is {_told(value)} in row {row}"
        if zoned is None:
            zoned = stamp.tzinfo is not None
        elif zoned != (stamp.tzinfo is not None):
            return f"; {_told(value)} in row {row} has {'no' if zoned else 'a'} time zone, unlike the rows before it"
    return ""


def _told(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…'"


def _exact(column: Column, values: pd.Series[Any], nulls: pd.Series[bool]) -> pd.Series[Any]:
    """Values of the right kind in the one NumPy type that the contract keeps for it."""
    import numpy as np
    import pandas as pd

    if column.dtype == "int64":
        return values if values.dtype == np.int64 else _integers(column, values)
    if column.dtype == "bool":
        if column.nullable:  # NumPy's bool has no null: 0, 1 and NaN
            return _series(values.astype(object).map({True: 1.0, False: 0.0}).to_numpy(np.float64), values)
        return values if values.dtype == np.bool_ else values.astype(bool)
    if column.dtype == "string":
        if values.dtype == object and not nulls.any():
            return values
        return values.astype(object).where(~nulls, None)
    utc = column.dtype == "datetime_utc"
    exact = "datetime64[ns, UTC]" if utc else "datetime64[ns]"
    if values.dtype == exact:
        return values
    try:
        stamps: Any = values if isinstance(values.dtype, pd.ArrowDtype) else pd.to_datetime(values, utc=utc)
        return pd.Series(stamps.astype(exact))
    except (ValueError, OverflowError) as error:  # a date like 9999-12-31, or time stamps of several zones
        hint = "they must lie between 1677 and 2262 and all be of one time zone or of none"
        raise DataError(f"column {column.name!r}: {column.dtype} expected, got time stamps that it cannot hold ({hint})") from error


def _integers(column: Column, values: pd.Series[Any]) -> pd.Series[Any]:
    """As int64; NumPy would wrap what is too large around zero without a word."""
    import numpy as np

    raw = values.to_numpy()
    if raw.dtype.kind in "uO" and len(raw) and (int(raw.min()) < -(2**63) or int(raw.max()) >= 2**63):
        raise DataError(
            f"column {column.name!r}: {column.dtype} expected, got integers of more than 64 bits with sign (write them as text)"
        )
    return _series(raw.astype(np.int64), values)


def _series(array: Any, like: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(array, index=like.index, name=like.name)


def _finite(column: Column, values: pd.Series[Any]) -> pd.Series[Any]:
    import numpy as np

    array = values.to_numpy()
    finite = np.isfinite(array)
    if finite.all():
        return values
    infinite = np.isinf(array)
    if infinite.any():
        raise DataError(f"column {column.name!r}: finite numbers expected, got an infinite one in row {int(np.flatnonzero(infinite)[0])}")
    if not column.nullable:
        bad = np.flatnonzero(~finite)
        raise DataError(f"column {column.name!r}: {column.dtype} expected, got {len(bad)} nulls, the first in row {int(bad[0])}")
    return values
