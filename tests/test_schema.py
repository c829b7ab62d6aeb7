"""The input contract: what training data set, and what happens to rows that differ."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipeline.errors import DataError
from recipeline.schema import InputSchema


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [30, 41, 28],
            "income": [1000.0, np.nan, 3000.5],
            "city": ["Seoul", None, "Oslo"],
            "member": [True, False, True],
            "since": pd.to_datetime(["2020-01-01", "2021-02-03", "2022-03-04"]).astype("datetime64[ns]"),
            "id": ["a", "b", "c"],
        }
    )


@pytest.fixture
def schema(frame: pd.DataFrame) -> InputSchema:
    return InputSchema.of(frame, ["age", "income", "city", "member", "since"], keys=["id"])


def test_the_contract_survives_json(schema: InputSchema) -> None:
    """What is written to input_schema.json is read back as the same contract."""
    assert InputSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_column_is_optional_exactly_when_training_had_nulls(schema: InputSchema) -> None:
    """Nullable and optional are one thing for features; keys are always optional."""
    assert {column.name for column in schema.columns if column.optional} == {"income", "city", "id"}


def test_rows_like_those_of_training_pass_unchanged(frame: pd.DataFrame, schema: InputSchema) -> None:
    """A frame that fits is not copied."""
    exact = frame.drop(columns=["city"])
    fitting = InputSchema.of(exact, ["age", "income", "member", "since"], keys=["id"])
    assert fitting.conform(exact) is exact
    assert schema.conform(frame).drop(columns="city").equals(frame.drop(columns="city"))


def test_shuffled_extra_and_missing_optional_columns_are_put_right(frame: pd.DataFrame, schema: InputSchema) -> None:
    """Order is training's, extra columns are ignored and named, missing optional ones are null."""
    given_rows = frame[["since", "city", "member", "age"]].assign(shoe_size=44)
    made = schema.conform(given_rows)
    assert list(made.columns) == ["age", "income", "city", "member", "since"]
    assert made["income"].isna().all()
    assert schema.extra_columns(given_rows) == ["shoe_size"]


def test_the_given_frame_is_left_alone(frame: pd.DataFrame, schema: InputSchema) -> None:
    """Conforming never writes into what it was given."""
    before = frame.copy(deep=True)
    schema.conform(frame.assign(age=frame["age"].astype("int8")))
    pd.testing.assert_frame_equal(frame, before)


def test_integers_widen_to_floats(frame: pd.DataFrame, schema: InputSchema) -> None:
    """An integer is a float, and 32 bits are 64."""
    made = schema.conform(frame.assign(income=[1, 2, 3], age=frame["age"].astype("int16")))
    assert made["income"].dtype == np.float64
    assert made["age"].dtype == np.int64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": [1.5, 2.0, 3.0]}, "column 'age': int64 expected, got float64"),
        ({"age": ["1", "2", "3"]}, "column 'age': int64 expected, got string"),
        ({"age": [1, None, 3]}, "column 'age': int64 expected, got float64"),
        ({"member": [1, 0, 1]}, "column 'member': bool expected, got int64"),
        ({"member": [True, None, True]}, "column 'member': bool expected, got 1 nulls, the first in row 1"),
        ({"income": [1.0, np.inf, 2.0]}, "column 'income': finite numbers expected, got an infinite one in row 1"),
        ({"income": ["a", "b", "c"]}, "column 'income': nullable float64 expected, got string"),
        ({"city": [1, 2, 3]}, "column 'city': nullable string expected, got int64"),
        ({"since": ["x", "y", "z"]}, "column 'since': datetime expected, got string"),
    ],
)
def test_anything_else_is_an_error_that_names_column_expected_and_got(
    frame: pd.DataFrame, schema: InputSchema, change: dict[str, list[object]], words: str
) -> None:
    """The message is enough to mend the data."""
    with pytest.raises(DataError) as caught:
        schema.conform(frame.assign(**change))
    assert words in str(caught.value)


def test_a_missing_column_names_the_one_it_may_be(frame: pd.DataFrame, schema: InputSchema) -> None:
    """A misspelt column is told from a forgotten one."""
    with pytest.raises(DataError, match="column 'member' is missing, bool expected \\(is it 'membr'\\?\\)"):
        schema.conform(frame.rename(columns={"member": "membr"}))


def test_all_wrong_columns_are_named_at_once(frame: pd.DataFrame, schema: InputSchema) -> None:
    """One round trip is enough."""
    with pytest.raises(DataError) as caught:
        schema.conform(frame.drop(columns="since").assign(age=["x", "y", "z"]))
    assert "'since' is missing" in str(caught.value)
    assert "column 'age'" in str(caught.value)


def test_a_column_that_is_there_twice_is_refused(frame: pd.DataFrame, schema: InputSchema) -> None:
    """A join that brought a column twice is not resolved by chance."""
    with pytest.raises(DataError, match="age is there twice"):
        schema.conform(pd.concat([frame, frame[["age"]]], axis=1))


def test_objects_no_model_can_take_are_refused_in_training() -> None:
    """Lists and mixed types are named when training data are described."""
    with pytest.raises(DataError, match="'x' holds mixed"):
        InputSchema.of(pd.DataFrame({"x": [1, "a", [2]]}), ["x"])


@pytest.mark.parametrize(
    ("dtype", "known"),
    [
        ("timestamp[ns][pyarrow]", "datetime"),
        ("timestamp[s][pyarrow]", "datetime"),
        ("date32[pyarrow]", "datetime"),
        ("date64[pyarrow]", "datetime"),
        ("timestamp[us, tz=UTC][pyarrow]", "datetime_utc"),
        ("timestamp[ms, tz=Asia/Seoul][pyarrow]", "datetime_utc"),
    ],
)
def test_times_of_arrow_are_times(dtype: str, known: str) -> None:
    """What a reader with Arrow types gives is the same column as NumPy's, in training and at prediction."""
    zone = "UTC" if "UTC" in dtype else "Asia/Seoul" if "Seoul" in dtype else None
    plain = pd.Series(
        pd.to_datetime(["2020-01-02", None, "2021-03-04"]).tz_localize(zone).astype(f"datetime64[ns, {zone}]" if zone else "datetime64[ns]")
    )
    arrow = pd.DataFrame({"t": plain.astype(dtype)}).set_axis([7, 8, 9])
    schema = InputSchema.of(arrow, ["t"])
    assert (schema.columns[0].dtype, schema.columns[0].nullable) == (known, True)
    assert InputSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    expected = (plain.dt.tz_convert("UTC") if zone else plain).set_axis([7, 8, 9])
    pd.testing.assert_series_equal(schema.conform(arrow)["t"], expected, check_names=False)
    pd.testing.assert_series_equal(InputSchema.of(pd.DataFrame({"t": plain}), ["t"]).conform(arrow)["t"], expected, check_names=False)


def test_a_time_of_arrow_that_nanoseconds_cannot_hold_is_an_error() -> None:
    """The year 9999 stands for `never` in many tables; it is not wrapped around."""
    never = pd.DataFrame({"t": pd.Series([dt.date(9999, 12, 31)], dtype="date32[pyarrow]")})
    with pytest.raises(DataError, match="time stamps that it cannot hold"):
        InputSchema.of(never, ["t"]).conform(never)


def test_decimals_of_arrow_are_numbers_and_its_clock_times_are_nothing() -> None:
    """As Python's own decimals and times are."""
    money = pd.DataFrame({"x": pd.Series([Decimal("1.50"), None], dtype=pd.ArrowDtype(pa.decimal128(8, 2)))})
    schema = InputSchema.of(money, ["x"])
    np.testing.assert_array_equal(schema.conform(money)["x"].to_numpy(), [1.5, np.nan])
    clock = pd.DataFrame({"x": pd.Series([dt.time(12)], dtype=pd.ArrowDtype(pa.time64("us")))})
    with pytest.raises(DataError, match="is of type time64"):
        InputSchema.of(clock, ["x"])


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53)), min_size=1, max_size=20)
)
def test_any_numbers_conform_to_a_nullable_float(values: list[float | int | None]) -> None:
    """Whatever mixture of integers, floats and nulls pandas makes of a column, its numbers arrive unchanged."""
    schema = InputSchema.of(pd.DataFrame({"x": [0.5, None]}), ["x"])
    made = schema.conform(pd.DataFrame({"x": pd.Series(values, dtype=object)}))["x"].to_numpy()
    expected = np.array([np.nan if value is None else float(value) for value in values])
    np.testing.assert_array_equal(made, expected)
