"""The task `regression`: one number per row, or one for each of several targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, field_validator

from recipeline.components.columns import keyed, length_of, no_nulls, target_type
from recipeline.components.metrics import REGRESSION, Observed
from recipeline.components.tabular import Tabular, TabularInterface, names_of
from recipeline.contracts import Metric, Output, Selected
from recipeline.errors import DataError
from recipeline.schema import InputSchema

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RegressionInterface(TabularInterface):
    """`data_interface` of `task_type: regression`; `target_col` may name several columns."""

    task_type: Literal["regression"] = "regression"
    target_col: tuple[str, ...] = Field(min_length=1)

    @field_validator("target_col", mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        return names_of(value)

    @field_validator("target_col")
    @classmethod
    def _different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a target is named twice")
        return value

    @property
    def targets(self) -> tuple[str, ...]:
        return self.target_col


class Regression(Tabular):
    """One number per row, or one for each of several targets."""

    Interface: ClassVar[type[BaseModel]] = RegressionInterface
    metrics: ClassVar[tuple[Metric, ...]] = REGRESSION

    def __init__(self, interface: RegressionInterface) -> None:
        self.interface: RegressionInterface = interface

    def _columns(self, schema: InputSchema) -> tuple[str, ...]:
        names = schema.target["names"]
        return ("prediction",) if len(names) == 1 else tuple(f"prediction_{name}" for name in names)

    def output(self, schema: InputSchema) -> Output:
        return Output(self._present_keys(schema), self._columns(schema))

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Keys, then `prediction`, or `prediction_<target>` for several targets."""
        n = length_of(selected.X)
        names = self._columns(schema)
        said = model.predict(selected.X) if n else ()
        predicted = np.asarray(said, dtype=np.float64).reshape(n, len(names))
        refuse_endless(predicted)
        columns = keyed(selected)
        for position, name in enumerate(names):
            columns[name] = predicted[:, position]
        return pd.DataFrame(columns, copy=False)

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """Always the mean of the training rows."""
        from sklearn.dummy import DummyRegressor

        return {"dummy": DummyRegressor(strategy="mean")}

    def observed(self, output: pd.DataFrame, selected: Selected, schema: InputSchema) -> Observed:
        """Truth and output side by side, as the metrics take them."""
        names = self._columns(schema)
        predicted = output[names[0]].to_numpy() if len(names) == 1 else output[list(names)].to_numpy()
        return Observed(np.asarray(selected.y), predicted, output, weight=selected.weight, targets=tuple(schema.target["names"]))

    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        for name in self.interface.target_col:
            no_nulls(name, data[name])
            dtype = target_type(data[name])
            if dtype not in {"int64", "float64"}:
                raise DataError(
                    f"target {name!r} holds {dtype} values, not numbers", hint="use task_type: classification", slug="bad-target"
                )
        return {"names": list(self.interface.target_col), "dtype": "float64"}

    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[Any]:
        columns = []
        for name in schema.target["names"]:
            no_nulls(name, data[name])
            try:
                values = data[name].to_numpy(dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"target {name!r}: float64 expected, got {data[name].dtype}", slug="bad-target") from error
            if not np.isfinite(values).all():
                raise DataError(f"target {name!r}: finite numbers expected, got an infinite one", slug="bad-target")
            columns.append(values)
        return columns[0] if len(columns) == 1 else np.column_stack(columns)


def refuse_endless(predicted: NDArray[np.float64]) -> None:
    """A model that overflowed has no answer, and an infinite one must not pass for one."""
    finite = np.isfinite(predicted)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        hint = "the model overflowed; look at the values of this row"
        raise DataError(f"no finite prediction for {len(rows)} rows, the first is row {int(rows[0])}", hint=hint, slug="not-finite")
