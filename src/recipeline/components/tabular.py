"""What tasks on tables share: which columns are features, what a row of training is, what names a row of output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from recipeline.components.columns import groups_of, require_columns, require_frame, weights_of
from recipeline.components.fitting import fit_estimator, refuse_unused
from recipeline.contracts import FitContext, Output, Selected
from recipeline.errors import DataError
from recipeline.schema import InputSchema

if TYPE_CHECKING:
    from numpy.typing import NDArray


def names_of(value: Any) -> Any:
    """One name may stand for a list of one."""
    return (value,) if isinstance(value, str) else value


class TabularInterface(BaseModel):
    """Keys of `data_interface` that all tasks on tables share.

    entity_cols        columns that name a row; carried to the output, never features, optional at prediction
    timestamp_col      the same for the time of a row
    group_col          rows of one group never stand on both sides of a split; not a feature
    sample_weight_col  weight of a row in fitting; not a feature
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)

    entity_cols: tuple[str, ...] = ()
    timestamp_col: str | None = None
    group_col: str | None = None
    sample_weight_col: str | None = None

    @field_validator("entity_cols", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return names_of(() if value is None else value)

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Columns that are predicted."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that name a row in the output, in their order there."""
        return tuple(dict.fromkeys((*self.entity_cols, *((self.timestamp_col,) if self.timestamp_col else ()))))

    @property
    def aside(self) -> tuple[str | None, ...]:
        """Columns that are no features."""
        return (*self.targets, *self.keys, self.group_col, self.sample_weight_col)

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        named = {"entity_cols": self.entity_cols, "timestamp_col": (self.timestamp_col,), "group_col": (self.group_col,)}
        named["sample_weight_col"] = (self.sample_weight_col,)
        for key, columns in named.items():
            for column in columns:
                if column is not None and column in self.targets:
                    raise ValueError(f"{column} is the target and cannot be in {key} as well")
        if self.sample_weight_col is not None and self.sample_weight_col in self.keys:
            raise ValueError(f"{self.sample_weight_col} cannot be a weight and name a row")
        return self


class Tabular(ABC):
    """Rows in, one row of output each."""

    splitter: ClassVar[str] = "train_test_split"
    evaluator: ClassVar[str] = "tabular_evaluator"
    streams: ClassVar[Literal["rows", "groups", "whole"]] = "rows"
    maybe: ClassVar[tuple[str, ...]] = ()  # columns that some models add to the output
    target_key: ClassVar[str] = "target_col"  # the key of data_interface that names the targets
    interface: TabularInterface

    def describe(self, data: Any) -> InputSchema:
        """The input contract that training data (n, ·) set: every column but target, weight and group.

        Raises DataError for missing columns (with the nearest names), null targets (with their number), a target that
        does not suit the task, or data without rows or features.
        """
        interface = self.interface
        require_frame(data)
        if len(data) == 0:
            raise DataError("the training data have no rows", slug="no-rows")
        require_columns(data, self.target_key, interface.targets)
        require_columns(data, "entity_cols", interface.entity_cols)
        for key in ("timestamp_col", "group_col", "sample_weight_col"):
            name = getattr(interface, key)
            if name is not None:
                require_columns(data, key, (name,))
        features = [name for name in data.columns if name not in interface.aside]
        if not features:
            raise DataError(
                "there is no feature column", hint="the target, keys, weight and group are all that the data hold", slug="no-features"
            )
        schema = InputSchema.of(data, features, keys=interface.keys, target=self._target(data))
        taken = set(interface.keys) & {*self.output(schema).values, *self.maybe}
        if taken:
            raise DataError(f"column {min(taken)!r} has the name of an output column", hint="rename it in the source", slug="schema")
        return schema

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        """The data taken apart.

        targets  True: raw data, brought into the contract here, with their target, weight and groups;
                 False: rows that conform to the contract already

        `X` is a frame of the features in the order of the contract, `y` the encoded target, `keys` a frame of the
        columns that name a row. `extras["target"]` keeps the target as it was.
        """
        interface = self.interface
        rows = schema.conform(data) if targets else data
        features = schema.features
        X = rows if len(rows.columns) == len(features) else rows[list(features)]
        present = [name for name in interface.keys if name in rows.columns]
        keys = rows[present] if present else None
        if not targets:
            return Selected(X=X, keys=keys)
        require_columns(data, self.target_key, interface.targets)
        weight = groups = times = None
        if interface.sample_weight_col is not None:
            require_columns(data, "sample_weight_col", (interface.sample_weight_col,))
            weight = weights_of(data[interface.sample_weight_col])
        if interface.group_col is not None:
            require_columns(data, "group_col", (interface.group_col,))
            groups = groups_of(data[interface.group_col])
        if interface.timestamp_col is not None and interface.timestamp_col in data.columns:
            times = data[interface.timestamp_col].to_numpy()
        names = list(interface.targets)
        raw = data[names[0] if len(names) == 1 else names].to_numpy()
        return Selected(X, self._encode(data, schema), keys, weight, groups, times, {"target": raw})

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted model; `selected.X` is preprocessed. Weights reach the estimator or are an error, never dropped."""
        refuse_unused(model, context)
        return fit_estimator(model, selected, context)

    def _present_keys(self, schema: InputSchema) -> tuple[str, ...]:
        return tuple(name for name in self.interface.keys if name in schema.keys)

    @abstractmethod
    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        """What the contract says of the target."""

    @abstractmethod
    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[Any] | None:
        """The target as models are given it, (rows,) or (rows, targets); None where there is none."""

    @abstractmethod
    def output(self, schema: InputSchema) -> Output:
        """The columns of a prediction."""
