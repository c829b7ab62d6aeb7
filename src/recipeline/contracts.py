"""The seams: what the engine and the parts promise each other.

Protocols and small frozen dataclasses; nothing here imports pandas, MLflow, Optuna or a web framework.
scikit-learn's estimators and transformers satisfy `Model` and `Preprocessor` as they are.
`docs/reference/contracts.md` explains each seam with an example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from recipeline.errors import Problem

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from matplotlib.axes import Axes
    from pydantic import BaseModel

    from recipeline.schema import InputSchema

    Frame: TypeAlias = pd.DataFrame
    Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.intp]]"

ROLES = (
    "loader", "augmenter", "preprocessor", "model", "evaluator", "splitter",
    "task", "metric", "adapter", "route", "exporter", "command", "part",
)  # fmt: skip
"""Entry-point groups are `recipeline.<role>`; `part` is for what is only ever nested."""

Direction: TypeAlias = Literal["maximize", "minimize"]
Needs: TypeAlias = Literal["prediction", "probability", "score", "quantiles", "frame", "features"]


# --- what passes between the parts ------------------------------------------------------------


@dataclass(frozen=True)
class Selected:
    """What a model learns from or is judged on: the data, taken apart by the task.

    X        features (n, d): a frame, an array, or whatever the model takes (an environment factory)
    y        targets (n,) or (n, m), encoded as the model wants them; None where the task has none
    keys     frame (n, ·) of the columns that name a row in the output; None when there are none
    weight   (n,) sample weights       groups  (n,) group labels       times  (n,) time stamps
    extras   further arrays of length n under the task's own names (`treatment` …); splitters keep the shares of `strata`
    """

    X: Any
    y: Any = None
    keys: Any = None
    weight: Any = None
    groups: Any = None
    times: Any = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    def take(self, rows: Rows | None) -> Selected:
        """The given rows of every field; None means all of them, and is all that data without rows can give."""
        if rows is None:
            return self
        return Selected(
            X=take(self.X, rows),
            y=take(self.y, rows),
            keys=take(self.keys, rows),
            weight=take(self.weight, rows),
            groups=take(self.groups, rows),
            times=take(self.times, rows),
            extras={name: take(value, rows) for name, value in self.extras.items()},
        )

    def with_features(self, X: Any) -> Selected:
        return replace(self, X=X)


def take(data: Any, rows: Rows | None) -> Any:
    """Rows of a frame or an array by position; None for `rows` means all, None for `data` stays None."""
    if rows is None or data is None:
        return data
    return data.iloc[rows] if hasattr(data, "iloc") else data[rows]


@dataclass(frozen=True)
class Fold:
    """One opening of a sealed part.

    train, test   positions of rows in the data; None where the data have no rows (an environment)
    validation    rows of the training side that are held back from fitting, for calibration and early stopping; not in `train`
    refit         False: judged by the pipeline of the fold before
    warm          the refit starts from the fitted part of the fold before (`FitContext.previous`)
    past          positions of rows that prediction may look back at, where they are more than `train`
    origin        the last moment that is known to it, where the data have a time grid
    label         how tables call this fold: "0", "1", … or an origin
    """

    train: Rows | None
    test: Rows | None
    refit: bool = True
    warm: bool = False
    past: Rows | None = None
    label: str = ""
    validation: Rows | None = None
    origin: Any = None


@dataclass(frozen=True)
class Split:
    """What is sealed, fitted, judged and saved.

    folds     at least one; the first always fits
    keep      which pipeline is saved: that of the last fold which fitted, or one more fitted on all rows
    final     with `keep="all"`: what that last fit uses, where it is not simply all rows (its `test` is not opened)
    audit     what was separated and how it was checked: rows on each side, groups shared (none), time borders
    """

    folds: tuple[Fold, ...]
    keep: Literal["last", "all"] = "last"
    audit: Mapping[str, Any] = field(default_factory=dict)
    final: Fold | None = None


@dataclass(frozen=True)
class Part:
    """The sealed rows that an evaluator opens, and what it is asked for.

    rows      the augmented data, raw, targets included: `pipeline.predict(part.rows, augmented=True)`
    selected  the same rows, taken apart by the task
    past      raw rows before the origin, for tasks that need a history; None elsewhere
    origin    the last moment that is known, where the data have a time grid
    metrics   names to report
    detail    True: tables and figures are wanted as well
    features  gives the rows as the judged model sees them, preprocessed (n, d): for what is judged by where rows lie.
              Baselines are judged on the very same, though they have no preprocessor. None where nobody keeps them
    rivals    the task's baselines, fitted on the same rows as the model, by name: for what compares forecasts row by row.
              Empty where a baseline is what is judged
    """

    rows: Any
    selected: Selected
    metrics: tuple[str, ...]
    detail: bool = True
    past: Any = None
    fold: str = ""
    seed: int = 0
    features: Callable[[], Any] | None = None
    origin: Any = None
    rivals: Mapping[str, Predictor] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A picture as a recipe for drawing it; the report and tracking draw it."""

    title: str
    draw: Callable[[Axes], None]
    caption: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What was found. A table is kept under its name as Parquet; one whose name ends in `.csv` as that."""

    metrics: Mapping[str, float]
    tables: Mapping[str, Frame] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    function(actual, predicted, *, weight=None) -> float, where `predicted` is what `needs` says:
    prediction   labels or values (n,) or (n, m)
    probability  (n, k), columns in the order of the sorted classes
    score        (n,) decision values
    quantiles    (n, q) in the order of the model's quantiles
    frame        the whole output frame of the pipeline
    features     labels (n,); in the place of `actual` stand the preprocessed features (n, d)
    """

    name: str
    direction: Direction
    needs: Needs
    function: Callable[..., float]
    aliases: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Output:
    """What one row of output is: the columns that name it and the columns that say something."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """An HTTP route that a part brings; mounted only with the model or recipe that brings it.

    handler(request) -> response, sync or async; one with a parameter `version` is told the version of the model by that name.
    start and stop run with the server. `instead`: a model's own POST /predict, in the place of the server's; rows are then asked
    at /predict/rows, and the first of the `examples` of the request's JSON Schema is what the server shows.
    """

    method: str
    path: str
    request: type[BaseModel] | None
    response: type[BaseModel] | None
    handler: Callable[..., Any]
    start: Callable[[], Any] | None = None
    stop: Callable[[], Any] | None = None
    summary: str = ""
    instead: bool = False


class Progress(Protocol):
    """Where long work tells how far it is."""

    def report(self, step: int, value: float) -> bool:
        """The tuned metric (`FitContext.metric`) after `step` iterations; True means stop, this trial is pruned. A model that cannot
        know that metric while it trains reports nothing: another figure would prune by the wrong sign.
        """
        ...

    def advance(self, done: int, total: int | None = None, label: str = "") -> None: ...


class Events(Protocol):
    """Where parts tell what happened; log, tracking and metrics hear it."""

    def emit(self, name: str, /, **fields: Any) -> None: ...


class Silent:
    """A Progress and Events that nobody listens to."""

    def report(self, step: int, value: float) -> bool:
        return False

    def advance(self, done: int, total: int | None = None, label: str = "") -> None:
        return None

    def emit(self, name: str, /, **fields: Any) -> None:
        return None


@dataclass(frozen=True)
class FitContext:
    """What the engine hands to a model whose `fit` takes `context`.

    folder     survives a crash: checkpoints go here and are found again on resume
    validation the held-back part of training (calibration, early stopping), a `Selected`, preprocessed; None if there is none
    previous   the fitted model of the fold before (warm start), or of the finished run that is trained further
    inner      folds inside the rows fitted on, as many as asked for, cut as the validation method cuts; None without one
    shared     one folder for all fits of a run, those of trials included: what one asked for dearly, the next need not ask
               again. Several may write at once, so files there are written whole and never changed. None without a run
    metric     name of the tuned metric, which `progress.report` is to be told; None outside of a search
    """

    seed: int
    folder: Path
    progress: Progress = field(default_factory=Silent)
    events: Events = field(default_factory=Silent)
    validation: Any = None
    previous: Any = None
    preprocessor: Any = None
    inner: Callable[[int], tuple[Fold, ...]] | None = None
    shared: Path | None = None
    metric: str | None = None


# --- the parts -----------------------------------------------------------------------------------


@runtime_checkable
class Loader(Protocol):
    def load(self) -> Any:
        """A frame; for reinforcement an environment factory."""
        ...


@runtime_checkable
class Streams(Protocol):
    """Optional on a loader: batches of rows, so that inference needs no more memory than one of them."""

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]: ...


@runtime_checkable
class Augmenter(Protocol):
    """Stateless; the same code trains and serves."""

    def augment(self, frame: Any, *, online: bool) -> Any: ...


@runtime_checkable
class Preprocessor(Protocol):
    """scikit-learn's transformer; may return any object its model takes.

    Optional: `online = True` on one that learns during training: the engine hands it unfitted to the model in
    `FitContext.preprocessor` and keeps it with the model, which predicts from rows as they are, too.
    `training_rows(X) -> mask (n,)`: rows that fitting uses.
    `remarks(X) -> lines`: what is odd about the data; logged once as warnings, before anything is fitted.
    `expect(schema)`: told the input contract before it is fitted. `any_layout = True`: what it gives does not depend on how
    the frame lies in memory (else the engine hands it floats in C order, so that all doors give the same bits).
    `reads() -> names`: once fitted, the columns that `transform` wants; the others leave the input contract.
    `merging`: of series, what becomes of rows that meet, as `duplicates` and `aggregate` of `timeseries.frames.Layout`; what is
    judged and what baselines are given follows it.
    """

    def fit(self, X: Any, y: Any = None) -> Any: ...
    def transform(self, X: Any) -> Any: ...


@runtime_checkable
class Model(Protocol):
    """scikit-learn's estimator. `fit(X, y, *, context: FitContext)` where the model wants the context.

    Optional: `expect(schema)`: told the input contract before it is fitted. `extends`: names of its arguments that may have another
    value when a finished run is trained further (`train --resume RUN`); `fit` finds what that run fitted in `FitContext.previous`.
    """

    def fit(self, X: Any, y: Any = None) -> Any: ...
    def predict(self, X: Any) -> Any: ...


class Task(Protocol):
    """The behaviour that a task owns, so that the engine needs no `if task == …`.

    Built by the engine as `Task(interface)`, where `interface` is a validated `Interface`. Optional: `preprocessor`, the name
    of the default one, or None where models take the selected rows as they are. `introduce(model, preprocessor)`: told of both,
    unfitted, before anything else, where cutting the data needs what only they know (a horizon); `unsearched` names those of the
    model's arguments, in which a search range is an error. `suits(model)`, a static method: why a class cannot be its model, or None;
    `agree(model, loader)`, a static method: Problems of their arguments together, keys beginning with "model" or "loader". Both
    are asked before any data is read.
    """

    Interface: ClassVar[type[BaseModel]]  # the model of data_interface
    metrics: ClassVar[tuple[Metric, ...]]  # the first is the default
    splitter: ClassVar[str]  # default validation method
    evaluator: ClassVar[str]  # default evaluator
    streams: ClassVar[Literal["rows", "groups", "whole"]]  # what a batch may not cut

    def __init__(self, interface: Any) -> None: ...

    def describe(self, data: Any) -> InputSchema:
        """Names, types, nullability and categories of training data: the stored input contract."""
        ...

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        """Take conformed data apart; with `targets`, their absence is a DataError."""
        ...

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted model; `selected.X` is preprocessed."""
        ...

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> Frame:
        """The output frame: key columns, then value columns, one row per row of output."""
        ...

    def output(self, schema: InputSchema) -> Output: ...

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """Unfitted models to beat, by name; fitted on the same rows without a preprocessor."""
        ...


class Evaluator(Protocol):
    """Optional: `summarise(tables) -> Evaluation`, after the last fold: the tables of all folds, one below the other with the
    column `fold` where there are several, become those that are kept, and figures of all folds stand beside those of the last.
    """

    @property
    def measures(self) -> Sequence[Metric]:
        """Every name it can report, with direction: known before any data is read."""
        ...

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation: ...


class Predictor(Protocol):
    """What an evaluator sees of a pipeline."""

    task: Any
    schema: InputSchema
    model: Any

    def predict(self, rows: Any, *, augmented: bool = False) -> Frame: ...


class Splitter(Protocol):
    """Constructor arguments are the keys of `evaluation.validation` but `method`.

    Optional: `unseen = True` of one whose sealed part is made for the judging and is no part of the data (episodes of an
    environment), so that no model of the same data can have been fitted on it, whenever it was trained.
    """

    def split(self, selected: Selected, task: Any) -> Split: ...

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        """Folds inside the training side, of the same kind, for tuning and calibration; positions within `selected`."""
        ...


@runtime_checkable
class Checked(Protocol):
    """Optional, on any part: mistakes that only the part can know (a licence, a knob without bounds)."""

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:
        """Keys are relative to the part's arguments; the engine adds file, line and column and raises all together.

        A `check` with a parameter `places` is given `stores.places.Places`, as a constructor is.
        """
        ...


@runtime_checkable
class Placed(Protocol):
    """Optional on a model or preprocessor: arguments that belong to the place, such as an address or a time limit.

    `placed` names those that only the configuration gives: a recipe that has one is refused. What a part keeps of itself says
    nothing of them; one that was read from an artifact is told those of today, with `places` where its constructor takes it.
    """

    placed: ClassVar[tuple[str, ...]]

    def settle(self, **arguments: Any) -> None: ...


@runtime_checkable
class Kept(Protocol):
    """Parts that keep themselves in a plain format of their own; others go through skops."""

    def save(self, folder: Path) -> None: ...
    @classmethod
    def load(cls, folder: Path) -> Self: ...


class Adapter(Protocol):
    """A way to outside data, built with its `config` as keyword arguments."""

    def read(self, query: str, params: Mapping[str, Any] | None = None) -> Frame: ...
    def batches(self, query: str, rows: int, params: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatch]: ...
    def write(self, frame: Frame, destination: str, *, key: str) -> None: ...


class Exporter(Protocol):
    """One whose `export` has an argument `loader` is given that of the run. Rows that it returns as `benchmark` are shown."""

    def export(self, pipeline: Any, folder: Path, **options: Any) -> dict[str, Any]: ...


def takes_context(model: Any) -> bool:
    """Whether `model.fit` has a parameter named `context`."""
    fit = model.fit
    return _names_context(getattr(fit, "__func__", fit))  # of the class: a search asks it of one model after the other


@lru_cache(maxsize=1024)
def _names_context(function: Callable[..., Any]) -> bool:
    try:
        return "context" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature takes none of ours
        return False
