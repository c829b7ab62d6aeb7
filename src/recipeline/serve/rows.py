"""From the bytes of a request to a frame: the request model is generated from the stored input contract.

One record, a list of records, or `{"records": [...]}`. Integers are taken for floats, and 42.0 for the integer it is; nothing
else is converted, so that text in a number is an error and not a guess. A column that had nulls in training may be null or
missing. Columns that the contract does not know are ignored and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from recipeline.errors import nearest
from recipeline.serve.problems import HTTPProblem, pointer

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from recipeline.schema import Column, InputSchema

MAX_DEPTH = 32  # of nested lists and objects
MAX_ERRORS = 100  # listed in one answer
MAX_LOOKED_AT = 1000  # rows after the first bad one that are searched for more
CATEGORIES_SHOWN = 20

_INT64 = (-(2**63), 2**63 - 1)
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
_EXPECTED = {
    "float64": "a number",
    "int64": "an integer",
    "bool": "true or false",
    "string": "text",
    "datetime": "a time stamp without zone, such as 2024-01-31T12:00:00",
    "datetime_utc": "a time stamp with zone, such as 2024-01-31T12:00:00Z",
}


@dataclass(frozen=True)
class Rows:
    """What a request asks about: the frame (n, ·) in the order sent, and how many unknown columns were ignored."""

    frame: pd.DataFrame
    extra: int

    def __len__(self) -> int:
        return len(self.frame)


class RowReader:
    """Reads request bodies for one input contract.

    record    the generated model of one record: fields f0 … with the columns' names as aliases, because a column may be
              called `_id`, `model_config` or anything else that is no field name
    """

    def __init__(self, schema: InputSchema, *, max_rows: int) -> None:
        self.schema, self.max_rows = schema, max_rows
        fields: dict[str, Any] = {f"f{i}": _field(column) for i, column in enumerate(schema.columns)}
        self.record: type[BaseModel] = create_model("Record", __config__=ConfigDict(strict=True, extra="ignore"), **fields)
        many = Annotated[list[self.record], FailFast()]  # type: ignore[name-defined]
        self.envelope: type[BaseModel] = create_model("Records", __config__=ConfigDict(strict=True, extra="forbid"), records=(many, ...))
        self._one: TypeAdapter[Any] = TypeAdapter(self.record)
        self._many: TypeAdapter[Any] = TypeAdapter(many)
        self._wrapped: TypeAdapter[Any] = TypeAdapter(self.envelope)
        self._names = pd.Index(schema.names, dtype=object)
        self._known = frozenset(schema.names) | frozenset(schema.target.get("names", ()))
        self._floats = all(column.dtype == "float64" and column.role == "feature" for column in schema.columns)
        self._values: Callable[[Any], Any] = attrgetter(*fields) if len(fields) > 1 else lambda row: (row.f0,) if fields else ()

    def read(self, body: bytes) -> Rows:
        """The rows of a request.

        Raises HTTPProblem: 400 for what is no JSON, 413 for too many rows, 422 for rows that break the contract.
        """
        document = parse(body)
        raw, adapter = self._branch(document)
        if len(raw) > self.max_rows:
            raise HTTPProblem(
                413, "too-many-rows", f"{len(raw)} rows, at most {self.max_rows} in one request", headers={"connection": "close"}
            )
        try:
            read = adapter.validate_json(body)
        except ValidationError as error:
            raise self._refusal(error, raw, alone=adapter is self._one) from None
        records = [read] if adapter is self._one else read if adapter is self._many else read.records
        extra = set().union(*raw) - self._known if raw else ()
        return Rows(self._frame(records), len(extra))

    def _branch(self, document: Any) -> tuple[list[Any], TypeAdapter[Any]]:
        """Which of the three forms it is, decided by hand: a union would turn one mistake into three."""
        if isinstance(document, list):
            return document, self._many
        if not isinstance(document, dict):
            mistake = {"pointer": "", "detail": f'a record, a list of records or {{"records": […]}} expected, got {_kind(document)}'}
            raise HTTPProblem(422, "invalid-rows", "the body is not made of records", errors=[mistake])
        if isinstance(document.get("records"), list):
            return document["records"], self._wrapped
        return [document], self._one

    # --- values --------------------------------------------------------------------------------------------------------

    def _frame(self, records: Sequence[Any]) -> pd.DataFrame:
        if self._floats:  # one block of float64 in C order, without a pandas object per column
            matrix = np.array([self._values(record) for record in records], dtype=np.float64)
            return pd.DataFrame(matrix.reshape(len(records), len(self.schema.columns)), columns=self._names)
        taken = zip(*[self._values(record) for record in records], strict=True) if records else [()] * len(self.schema.columns)
        columns = {}
        for position, (column, values) in enumerate(zip(self.schema.columns, taken, strict=True)):
            if column.role == "key":
                if not any(f"f{position}" in record.model_fields_set for record in records):
                    continue
                columns[column.name] = _key_values(column, values)
            else:
                columns[column.name] = _feature_values(column, values)
        return pd.DataFrame(columns, index=pd.RangeIndex(len(records)))

    # --- mistakes ------------------------------------------------------------------------------------------------------

    def _refusal(self, error: ValidationError, raw: list[Any], *, alone: bool) -> HTTPProblem:
        first = error.errors(include_url=False, include_context=False)
        if first[0]["type"] == "json_invalid":  # pydantic's parser is stricter than Python's about lone surrogates
            return HTTPProblem(400, "invalid-json", first[0]["msg"])
        unknown = [item for item in first if item["type"] == "extra_forbidden"]
        if unknown:
            names = ", ".join(sorted(str(item["loc"][-1]) for item in unknown))
            return HTTPProblem(422, "unknown-key", f"beside `records` stands {names}; remove it")
        start = 0 if alone else next(int(step) for step in first[0]["loc"] if isinstance(step, int))
        mistakes: list[dict[str, Any]] = []
        for row in range(start, min(len(raw), start + MAX_LOOKED_AT)):
            mistakes.extend(self._mistakes(row, raw[row]))
            if len(mistakes) >= MAX_ERRORS:
                break
        mistakes = mistakes[:MAX_ERRORS]
        count = "1 value breaks" if len(mistakes) == 1 else f"{len(mistakes)} values break"
        return HTTPProblem(422, "invalid-rows", f"{count} the input contract; see /model/metadata", errors=mistakes)

    def _mistakes(self, row: int, record: Any) -> Iterator[dict[str, Any]]:
        try:
            self._one.validate_json(json.dumps(record))
        except ValidationError as error:
            for item in error.errors(include_url=False, include_context=False):
                if not item["loc"]:
                    yield {"pointer": pointer("rows", row), "row": row, "detail": f"a record expected, got {_kind(record)}"}
                    continue
                name = str(item["loc"][0])
                yield {
                    "pointer": pointer("rows", row, name),
                    "row": row,
                    "column": name,
                    "detail": self._words(self.schema.column(name), item, record),
                }

    def _words(self, column: Column, item: ErrorDetails, record: Mapping[str, Any]) -> str:
        expected = f"{_EXPECTED[column.dtype]}{' or null' if column.nullable else ''} expected"
        kind = item["type"]
        if kind == "missing":
            near = nearest(column.name, set(record) - self._known)
            return f"the column is missing, {expected}" + (f"; is it {near!r}?" if near else "")
        if kind == "finite_number":
            return "a finite number expected, got one that is not"
        if kind in {"less_than_equal", "greater_than_equal"}:
            return "an integer of 64 bits expected, got a larger one"
        if kind == "value_error":
            return item["msg"].removeprefix("Value error, ")
        if column.dtype == "int64" and isinstance(item["input"], float):
            return f"{expected}, got a fraction"
        return f"{expected}, got {_kind(item['input'])}"


def parse(body: bytes) -> Any:
    """The JSON document in a body.

    Raises HTTPProblem 400 for what is no JSON, for a name that stands twice in one object and for nesting beyond `MAX_DEPTH`.
    """
    if not body.strip():
        raise HTTPProblem(400, "invalid-json", 'the body is empty; send a record, a list of records or {"records": […]}')
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise HTTPProblem(400, "invalid-json", f"the body is not UTF-8 from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        raise HTTPProblem(400, "invalid-json", f"no JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise HTTPProblem(400, "too-deep", f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # Python refuses to convert integers of more than 4,300 digits
        raise HTTPProblem(400, "invalid-json", "an integer has too many digits") from None
    level, depth = [document] if isinstance(document, dict | list) else [], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise HTTPProblem(400, "too-deep", f"nested deeper than {MAX_DEPTH} levels")
        level = [value for container in level for value in _inside(container) if value.__class__ is dict or value.__class__ is list]
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise HTTPProblem(400, "duplicate-key", f"{twice!r} stands twice in one object; remove one of them")
    return found


def _inside(container: Any) -> Any:
    return container.values() if container.__class__ is dict else container


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "something else")


def example(schema: InputSchema) -> dict[str, Any] | list[dict[str, Any]]:
    """A record that the contract accepts, or as many as an answer needs: values from the training data where it keeps some."""
    if "example" in schema.extras:
        return [dict(record) for record in schema.extras["example"]]
    made = {
        "float64": 0.0,
        "int64": 0,
        "bool": False,
        "string": "",
        "datetime": "2024-01-31T00:00:00",
        "datetime_utc": "2024-01-31T00:00:00Z",
    }
    return {c.name: c.example if c.example is not None else None if c.nullable else made[c.dtype] for c in schema.columns}


# --- one column ----------------------------------------------------------------------------------------------------------


def _field(column: Column) -> tuple[Any, Any]:
    """Type and default of a column, as `create_model` takes them."""
    shown: dict[str, Any] = {"description": _description(column)}
    if column.example is not None:
        shown["examples"] = [column.example]
    if column.role == "key":
        scalar = {"type": ["string", "number", "boolean", "null"]}
        return Annotated[Any, AfterValidator(_scalar), WithJsonSchema(scalar), Field(alias=column.name, **shown)], None
    kinds: dict[str, Any] = {
        "float64": Annotated[float, Field(allow_inf_nan=False)],
        "int64": Annotated[int, Field(ge=_INT64[0], le=_INT64[1]), BeforeValidator(_whole)],
        "bool": bool,
        "string": str,
        "datetime": _time_stamp(zone=False),
        "datetime_utc": _time_stamp(zone=True),
    }
    kind = kinds[column.dtype]
    if column.nullable:
        return Annotated[kind | None, Field(alias=column.name, **shown)], None
    return Annotated[kind, Field(alias=column.name, **shown)], ...


def _description(column: Column) -> str:
    words = "names the row in the answer; may be left out" if column.role == "key" else _EXPECTED[column.dtype]
    if column.optional and column.role != "key":
        words += "; may be null or left out"
    if column.categories:
        shown = ", ".join(map(repr, column.categories[:CATEGORIES_SHOWN]))
        more = len(column.categories) - CATEGORIES_SHOWN
        words += f"; seen in training: {shown}" + (f" and {more} more" if more > 0 else "")
    return words


def _time_stamp(*, zone: bool) -> Any:
    shown = {
        "type": "string",
        **({"format": "date-time"} if zone else {"pattern": r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?$"}),
    }
    return Annotated[str, AfterValidator(partial(_moment, zone=zone)), WithJsonSchema(shown)]


def _moment(text: str, *, zone: bool) -> pd.Timestamp:
    """A time stamp to the nanosecond; only ISO 8601, because every other form can be read in two ways."""
    expected = _EXPECTED["datetime_utc" if zone else "datetime"] + " expected"
    if not _ISO.fullmatch(text):
        raise ValueError(f"{expected}, got text that is none")
    try:
        moment = pd.Timestamp(text)
        moment = moment.as_unit("ns")
    except ValueError:
        raise ValueError(f"{expected}, got one that no calendar has or that lies outside 1678 to 2261") from None
    if (moment.tzinfo is not None) != zone:
        raise ValueError(f"{expected}, got one {'without' if zone else 'with'} a zone")
    return moment.tz_convert("UTC") if zone else moment


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 42.0 is an integer there, as JSON Schema has it."""
    return int(value) if value.__class__ is float and value.is_integer() else value


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise ValueError(f"text or a number expected, got {_kind(value)}")  # noqa: TRY004  # pydantic wants a ValueError
    return value


def _feature_values(column: Column, values: Sequence[Any]) -> Any:
    if column.dtype == "float64":
        return np.array(values, dtype=np.float64)  # None becomes NaN
    if column.dtype == "datetime":
        return pd.Series(values, dtype="datetime64[ns]")
    if column.dtype == "datetime_utc":
        return pd.Series(values, dtype="datetime64[ns, UTC]")
    if column.dtype in {"int64", "bool"} and not column.nullable:
        return np.array(values, dtype=column.dtype)
    return pd.Series(values, dtype=object)


def _key_values(column: Column, values: Sequence[Any]) -> Any:
    """Keys are given back as they came; time stamps become such where all of them are, because augmenters join on them."""
    kinds = {type(value) for value in values}
    if kinds == {int} and all(_INT64[0] <= value <= _INT64[1] for value in values):
        return np.array(values, dtype=np.int64)
    if column.dtype in {"datetime", "datetime_utc"} and kinds == {str} and all(_ISO.fullmatch(value) for value in values):
        zone = column.dtype == "datetime_utc"
        try:
            return pd.Series([_moment(value, zone=zone) for value in values], dtype="datetime64[ns, UTC]" if zone else "datetime64[ns]")
        except ValueError:
            pass  # keys are never checked: text that is no time stamp stays text
    return pd.Series(values, dtype=object)
