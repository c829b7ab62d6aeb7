"""The contract suite: what every registered part must do, as plain functions. A newcomer is tested the day it appears.

    import pytest
    from recipeline.checks import parts_and_checks

    @pytest.mark.parametrize("part, check", parts_and_checks("my-distribution"), ids=str)
    def test_contract(part, check, tmp_path):
        check(part, tmp_path)

Which checks apply is decided by the role of a part and by what it can do. A part that cannot be made without arguments, or
that a small table tells nothing, says how to try it by optional class methods:

    example() -> dict   arguments for its constructor; for a task the keys of `data_interface`
    example_data()      what it works on: a `Selected` for a model, preprocessor or splitter; raw rows for a task or augmenter.
                        Its `extras` are handed to a `fit` that has arguments of their names (`treatment`)
    example_rows()      what `predict` takes, where it is not what `fit` takes (an agent learns from an environment, answers states)

An argument called `source_uri` is given a small CSV file. `places`, `context_params` and `interface` come from here, as they
come from the engine elsewhere.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from recipeline import artifact, registry, signatures
from recipeline.assemble import DEFAULT_PREPROCESSOR, ENGINE
from recipeline.contracts import ROLES, FitContext, Fold, Kept, Metric, Part, Selected, take, takes_context
from recipeline.errors import DataError, MissingLibrary, TrainingFailed
from recipeline.pipeline import Pipeline
from recipeline.registry import AllowList, Entry
from recipeline.settings import NAMESPACES
from recipeline.stores.places import Places

SEED = 7
ROWS = 60


# --- what is checked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registered:
    """A line of the table of entry points, with what the checks need to try it."""

    entry: Entry

    def __str__(self) -> str:
        return f"{self.entry.role}:{self.entry.name}"

    @cached_property
    def made(self) -> Any:
        return self.entry.load()

    def build(self, folder: Path) -> Any:
        """A fresh part, from its example."""
        arguments: dict[str, Any] = dict(self.made.example()) if hasattr(self.made, "example") else {}
        takes = signatures.signature(self.made)
        supplied: dict[str, Callable[[], Any]] = {
            "places": lambda: Places(project=folder, folder=folder),
            "context_params": dict,
            "interface": lambda: dict(_interface("classification")),
            "source_uri": lambda: _csv(folder),
        }
        for name, supply in supplied.items():
            if name in takes.names and name not in arguments and (name != "source_uri" or name in takes.required):
                arguments[name] = supply()
        if "random_state" in takes.names and arguments.get("random_state") is None and takes.defaults.get("random_state") is None:
            arguments["random_state"] = SEED
        lacking = [name for name in takes.required if name not in arguments]
        _expect(not lacking, f"{self} needs {', '.join(lacking)}: give it a class method example() -> dict of constructor arguments")
        return self.made(**arguments)

    def data(self) -> Any:
        """Its own example data, else None."""
        return self.made.example_data() if hasattr(self.made, "example_data") else None

    def selected(self) -> Selected:
        """What a model, preprocessor or splitter is tried on."""
        own = self.data()
        return own if isinstance(own, Selected) else _selected()


@dataclass(frozen=True)
class Check:
    """One thing that must hold; called with a part and an empty folder, it raises AssertionError with what does not."""

    function: Callable[[Registered, Path], None]
    roles: tuple[str, ...]
    applies: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.function.__name__

    def __call__(self, part: Registered, folder: Path) -> None:
        self.function(part, folder)


CHECKS: list[Check] = []

CLASSES = tuple(role for role in ROLES if role not in registry.VALUES)


def _check(*roles: str, when: Callable[[Any], bool] = bool) -> Callable[[Callable[[Registered, Path], None]], Check]:
    def add(function: Callable[[Registered, Path], None]) -> Check:
        check = Check(function, roles, when)
        CHECKS.append(check)
        return check

    return add


def parts_and_checks(distribution: str | None = None) -> list[tuple[Registered, Check]]:
    """Every registered part with every check that applies to it; of one distribution only, where it is named.

    Of a part whose optional library is not installed, that it says so is all that is checked.
    """
    pairs: list[tuple[Registered, Check]] = []
    for entry in registry.entries():
        if distribution in (None, entry.distribution):
            part = Registered(entry)
            try:
                made = part.made
            except MissingLibrary:
                pairs.append((part, names_its_missing_library))
                continue
            pairs += [(part, check) for check in CHECKS if entry.role in check.roles and check.applies(made)]
    return pairs


# --- every part ------------------------------------------------------------------------------------


def _missing_library(part: Registered, folder: Path) -> None:  # the signature of a check
    try:
        part.entry.load()
    except MissingLibrary as error:
        _expect("pip install" in str(error), f"{part} does not say what to install")


names_its_missing_library = Check(_missing_library, (), bool)


@_check(*ROLES)
def is_listed_under_one_name(part: Registered, folder: Path) -> None:
    """Its name is its own: no other distribution has it, and it is a word."""
    name = part.entry.name
    _expect(name.isidentifier(), f"{name!r} is not a plain word")
    owners = {entry.distribution for entry in registry.entries(part.entry.role, name)}
    _expect(len(owners) == 1, f"{part} is registered by {' and '.join(sorted(owners))}")


@_check(*CLASSES)
def says_what_it_is(part: Registered, folder: Path) -> None:
    """The first line of its docstring is what `recipeline list parts` shows."""
    doc = vars(part.made).get("__doc__") or ""
    _expect(bool(doc.strip().partition("\n")[0]), f"{part} has no docstring of its own")


@_check("loader", "augmenter", "preprocessor", "model", "evaluator", "splitter", "part")
def names_its_arguments(part: Registered, folder: Path) -> None:
    """A recipe can give every argument by its name, and a misspelt one is noticed."""
    _expect(not signatures.signature(part.made).open, f"{part} takes **kwargs, so a misspelt argument would be swallowed")


@_check("part", "loader", "augmenter", "exporter", when=lambda made: issubclass(made, Kept) and _buildable(made))
def a_part_reads_back_what_it_kept(part: Registered, folder: Path) -> None:
    """Saved twice, before and after loading, the files are the same."""
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    part.build(folder).save(first)
    part.made.load(first).save(second)
    _expect(_bytes(first) == _bytes(second), f"{part} keeps something else after it was loaded")


# --- loaders and augmenters ------------------------------------------------------------------------


@_check("loader")
def loads_the_same_twice(part: Registered, folder: Path) -> None:
    """Two loaders from the same arguments bring the same rows; nothing is read by the constructor."""
    first, second = part.build(folder).load(), part.build(folder).load()
    if isinstance(first, pd.DataFrame):
        _same(first, second, f"{part} loads other rows the second time")
    _expect(type(first) is type(second), f"{part} loads another kind of data the second time")


@_check("loader", when=lambda made: hasattr(made, "batches"))
def its_batches_are_its_rows(part: Registered, folder: Path) -> None:
    """Streaming brings the rows that loading brings, in that order."""
    import pyarrow as pa

    whole = part.build(folder).load()
    batches = list(part.build(folder).batches(7))
    _expect(all(batch.num_rows <= 7 for batch in batches), f"{part} gives batches that are larger than asked for")
    streamed = pa.Table.from_batches(batches).to_pandas()
    _same(streamed, whole.reset_index(drop=True), f"{part} streams other rows than it loads", types=False)


@_check("augmenter")
def augments_without_touching_its_input(part: Registered, folder: Path) -> None:
    """The frame that came in is as it was; online and offline bring the same columns to the same rows."""
    rows = part.data() if hasattr(part.made, "example_data") else _table()
    before = rows.copy(deep=True)
    offline = part.build(folder).augment(rows, online=False)
    online = part.build(folder).augment(rows, online=True)
    _same(rows, before, f"{part} changed its input")
    _same(offline, online, f"{part} brings something else online")
    _expect(len(offline) == len(before), f"{part} lost or added rows")


# --- preprocessors and models ----------------------------------------------------------------------


@_check("preprocessor", "model")
def same_seed_same_result(part: Registered, folder: Path) -> None:
    """Fitted twice from one seed on the same rows, it says the same to the last bit."""
    selected = part.selected()
    first = _said(_fitted(part, folder / "first", selected), selected)
    second = _said(_fitted(part, folder / "second", selected), selected)
    _same(first, second, f"{part} says something else the second time")


@_check("preprocessor", "model")
def leaves_its_input_alone(part: Registered, folder: Path) -> None:
    """Neither fitting nor predicting changes the rows it was given."""
    selected = part.selected()
    before = copy.deepcopy(selected)
    _said(_fitted(part, folder, selected), selected)
    for name in ("X", "y", "weight"):
        _same(getattr(selected, name), getattr(before, name), f"{part} changed {name}")


@_check("preprocessor", "model")
def saving_and_loading_changes_no_bit(part: Registered, folder: Path) -> None:
    """What is read back from the artifact says the same, to the last bit."""
    selected = part.selected()
    fitted = _fitted(part, folder / "work", selected)
    before = _said(fitted, selected)
    artifact.keep(fitted, folder / "kept", part.entry.role, "check")
    allow = AllowList.of(NAMESPACES)
    own = f"{part.made.__module__}.{part.made.__qualname__}"
    read = artifact.take_up(
        folder / "kept", part.entry.role, "check", lambda path: part.made if path == own else registry.resolve(path, allow)
    )
    _same(_said(read, selected), before, f"{part} says something else once it was saved and loaded")


@_check("preprocessor")
def transforms_every_row(part: Registered, folder: Path) -> None:
    """At prediction a row is never lost."""
    selected = part.selected()
    fitted = _fitted(part, folder, selected)
    few = take(selected.X, np.arange(3))
    _expect(len(fitted.transform(few)) == 3, f"{part} lost rows at prediction")


@_check("preprocessor", "model", when=lambda made: not hasattr(made, "example_data"))
def wrong_columns_are_a_data_error(part: Registered, folder: Path) -> None:
    """Inside a pipeline a missing column, or text where numbers were, is a DataError."""
    task = _task("classification")
    rows = _table()
    schema = task.describe(rows)
    selected = task.select(rows, schema, targets=True)
    if part.entry.role == "preprocessor":
        model, preprocessor = task.baselines(schema)["dummy"], part.build(folder)
    else:
        model, preprocessor = part.build(folder), _found("preprocessor", DEFAULT_PREPROCESSOR).build(folder)
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=preprocessor)
    try:
        pipeline.fit(selected, FitContext(SEED, folder))
    except TrainingFailed as error:
        raise AssertionError(_unsuited(part, error)) from error
    _expect(len(pipeline.predict(rows)) == len(rows), f"{part} lost rows")
    _refuses_broken_columns(pipeline.predict, rows, str(part))


# --- tasks -----------------------------------------------------------------------------------------


@_check("task")
def its_interface_forbids_unknown_keys(part: Registered, folder: Path) -> None:
    """A misspelt key of data_interface is an error."""
    from pydantic import ValidationError

    try:
        part.made.Interface.model_validate({"no_such_key": 1})
    except ValidationError as error:
        refused = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
        _expect(refused == [("no_such_key",)], f"{part}: Interface accepts unknown keys; say extra='forbid'")
    else:
        raise AssertionError(f"{part}: Interface accepts unknown keys; say extra='forbid'")


@_check("task")
def its_defaults_are_registered(part: Registered, folder: Path) -> None:
    """Splitter, evaluator and preprocessor that a task names exist."""
    made = part.made
    defaults = {"splitter": made.splitter, "evaluator": made.evaluator, "preprocessor": getattr(made, "preprocessor", DEFAULT_PREPROCESSOR)}
    for role, name in defaults.items():
        _expect(name is None or bool(registry.entries(role, name)), f"{part}: no {role} is registered as {name!r}")
    _expect(made.streams in ("rows", "groups", "whole"), f"{part}: streams is {made.streams!r}")


@_check("task")
def its_metrics_have_names_of_their_own(part: Registered, folder: Path) -> None:
    """At least one metric, and no name or alias means two."""
    _metrics_are_sound(part.made.metrics, str(part))


@_check("task", when=lambda made: _example_of_task(made) is not None)
def takes_data_apart_and_puts_answers_together(part: Registered, folder: Path) -> None:
    """A baseline fitted on the example answers with the columns that the task declared; the rows are left alone."""
    task, rows = _tried(part)
    before = copy.deepcopy(rows)
    schema = task.describe(rows)
    selected = task.select(rows, schema, targets=True)
    declared = task.output(schema)
    for name, model in task.baselines(schema).items():
        fitted = task.fit(model, selected, FitContext(SEED, folder))
        answer = task.rows(fitted, selected, schema)
        lacking = set(declared.values) - set(answer.columns)
        _expect(not lacking, f"{part}: the answer of {name} has no column {', '.join(sorted(lacking))}")
    _same(rows, before, f"{part} changed its input")


@_check("task", when=lambda made: isinstance((_example_of_task(made) or (None, None))[1], pd.DataFrame))
def a_task_refuses_broken_columns(part: Registered, folder: Path) -> None:
    """A missing target, a missing feature, or text where numbers were, is a DataError."""
    task, rows = _tried(part)
    schema = task.describe(rows)
    _refuses_broken_columns(schema.conform, rows[[name for name in schema.names if name in rows.columns]], str(part))
    for name in schema.target.get("names", ()):
        _raises(task.describe, rows.drop(columns=name), f"{part} does not miss its target {name}")


# --- splitters -------------------------------------------------------------------------------------


@_check("splitter")
def its_folds_are_disjoint(part: Registered, folder: Path) -> None:
    """No sealed row is fitted on, outside and inside; the first fold fits."""
    selected, task = part.selected(), _task("classification")
    splitter = part.build(folder)
    split = splitter.split(selected, task)
    _expect(len(split.folds) >= 1 and split.folds[0].refit, f"{part}: the first fold must fit")
    for fold in split.folds:
        _fold_is_sound(fold, selected, str(part))
    inside = selected.take(split.folds[0].train)
    for fold in splitter.inner(inside, task, 3):
        _fold_is_sound(fold, inside, f"{part}, inner folds")


@_check("splitter")
def its_folds_come_from_the_seed(part: Registered, folder: Path) -> None:
    """Two splitters from the same arguments cut the same folds, outside and inside."""
    selected, task = part.selected(), _task("classification")
    for outside in (True, False):
        cuts = [part.build(folder) for _ in range(2)]
        first, second = [cut.split(selected, task).folds if outside else cut.inner(selected, task, 3) for cut in cuts]
        _expect(len(first) == len(second), f"{part} cuts another number of folds the second time")
        for one, other in zip(first, second, strict=True):
            same = np.array_equal(one.train, other.train) and np.array_equal(one.test, other.test)
            _expect(same, f"{part} cuts other folds the second time")


# --- evaluators and metrics ------------------------------------------------------------------------


@_check("evaluator")
def its_measures_have_names_of_their_own(part: Registered, folder: Path) -> None:
    """It can report something, and no name or alias means two things of one task."""
    measures = part.build(folder).measures
    tasks = list(_tasks_of(part))
    for task in tasks:
        known = {metric.name for metric in task.made.metrics}
        _metrics_are_sound([metric for metric in measures if metric.name in known], f"{part} for {task}")
    if not tasks:
        _metrics_are_sound(measures, str(part))


ASKED = ("prediction", "frame", "features")  # what a baseline without probabilities can be measured by


@_check("evaluator")
def reports_only_what_it_announced(part: Registered, folder: Path) -> None:
    """Of the metrics asked for it reports each, under its name, as a number; the sealed rows are left alone."""
    for number, registered in enumerate(_tasks_of(part)):
        if _example_of_task(registered.made) is None:
            continue
        task, rows = _tried(registered)
        schema = task.describe(rows)
        selected = task.select(rows, schema, targets=True)
        baselines = task.baselines(schema)
        evaluator = part.build(folder)
        announced = {metric.name for metric in evaluator.measures}
        asked = tuple(metric.name for metric in task.metrics if metric.name in announced and metric.needs in ASKED)[:3]
        for name, model in baselines.items():
            scratch = folder / f"{number}-{name}"
            scratch.mkdir()
            pipeline = Pipeline(task=task, schema=schema, model=model).fit(selected, FitContext(SEED, scratch))
            before = copy.deepcopy(rows)
            features = partial(_preprocessed, selected, scratch)
            evaluation = evaluator.judge(pipeline, Part(rows, selected, asked, detail=True, past=rows, seed=SEED, features=features))
            _same(rows, before, f"{part} changed the sealed rows")
            _expect(set(evaluation.metrics) == set(asked), f"{part} was asked for {asked} and reported {sorted(evaluation.metrics)}")
            _expect(all(np.isfinite(value) for value in evaluation.metrics.values()), f"{part} reported what is not a number")


@_check("metric")
def is_a_metric(part: Registered, folder: Path) -> None:
    """A registered metric is a `contracts.Metric` under its own name."""
    metric = part.made
    _expect(isinstance(metric, Metric), f"{part} is {type(metric).__name__}, not a Metric")
    _expect(metric.name == part.entry.name, f"{part} calls itself {metric.name}")
    _metrics_are_sound([metric], str(part))


# --- means -----------------------------------------------------------------------------------------


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _raises(call: Callable[[Any], Any], argument: Any, otherwise: str) -> None:
    try:
        call(argument)
    except DataError:
        return
    except Exception as error:
        raise AssertionError(f"{otherwise} with a DataError, but raises {type(error).__name__}") from error
    raise AssertionError(otherwise)


def _same(one: Any, other: Any, otherwise: str, *, types: bool = True) -> None:
    """Equal to the last bit."""
    try:
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other, check_exact=True, check_dtype=types)
        elif isinstance(one, pd.Series):
            pd.testing.assert_series_equal(one, other, check_exact=True)
        elif one is not None and not isinstance(one, (str, bytes, bool, int, float)) and hasattr(one, "__len__"):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        elif isinstance(one, (str, bytes, bool, int, float, type(None))):
            _expect(one == other, "")  # anything else has no equality that we know of
    except AssertionError as error:
        raise AssertionError(f"{otherwise}: {str(error).strip().partition(chr(10))[0]}") from error


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _table() -> pd.DataFrame:
    """Sixty rows with numbers, text, two labels, a value, a group and a time; the same at every call."""
    random = np.random.default_rng(SEED)
    a, b, c = random.normal(size=(3, ROWS))
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "c": np.round(c, 3),
            "city": np.array(["Lyon", "Oslo", "Pusan"])[random.integers(3, size=ROWS)],
            "label": np.where(a + 0.3 * b > 0, "yes", "no"),
            "value": 2 * a - b + 0.1 * random.normal(size=ROWS),
            "group": np.arange(ROWS) % 12,
            "time": pd.date_range("2024-01-01", periods=ROWS, freq="D"),
        }
    )


def _csv(folder: Path) -> str:
    from recipeline.stores import files

    files.write_text(folder / "rows.csv", _table().to_csv(index=False))
    return "rows.csv"


def _selected() -> Selected:
    """The table, taken apart for a classifier: three numbers (60, 3), y in {0, 1}."""
    rows = _table()
    return Selected(
        X=rows[["a", "b", "c"]],
        y=(rows["label"] == "yes").to_numpy().astype(np.int64),
        groups=rows["group"].to_numpy(),
        times=rows["time"].to_numpy(),
    )


INTERFACES: Mapping[str, Mapping[str, Any]] = {
    "classification": {"target_col": "label", "group_col": "group", "timestamp_col": "time"},
    "regression": {"target_col": "value", "group_col": "group", "timestamp_col": "time"},
    "clustering": {"label_col": "label", "group_col": "group", "timestamp_col": "time"},
}


def _interface(name: str) -> Mapping[str, Any]:
    return {"task_type": name, **INTERFACES[name]}


def _preprocessed(selected: Selected, folder: Path) -> Any:
    return _found("preprocessor", DEFAULT_PREPROCESSOR).build(folder).fit_transform(selected.X)


def _found(role: str, name: str) -> Registered:
    return Registered(registry.entries(role, name)[0])


def _task(name: str) -> Any:
    made = _found("task", name).made
    return made(made.Interface.model_validate(_interface(name)))


def _example_of_task(made: Any) -> tuple[Mapping[str, Any], Any] | None:
    """Keys of data_interface and raw rows to try a task on; None where it says none."""
    if hasattr(made, "example") and hasattr(made, "example_data"):
        return made.example(), made.example_data()
    for name in INTERFACES:
        if registry.entries("task", name) and made is _found("task", name).made:
            return _interface(name), _table()
    return None


def _tried(part: Registered) -> tuple[Any, Any]:
    found = _example_of_task(part.made)
    assert found is not None
    keys, rows = found
    return part.made(part.made.Interface.model_validate(dict(keys))), rows


def _tasks_of(evaluator: Registered) -> Iterator[Registered]:
    """Tasks that name this evaluator as their default."""
    for entry in registry.entries("task"):
        task = Registered(entry)
        try:
            made = task.made
        except MissingLibrary:
            continue
        if made.evaluator == evaluator.entry.name:
            yield task


def _buildable(made: Any) -> bool:
    return hasattr(made, "example") or not set(signatures.signature(made).required) - {*ENGINE, "source_uri"}


def _fitted(part: Registered, folder: Path, selected: Selected) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    fresh = part.build(folder)
    context = {"context": FitContext(SEED, folder)} if takes_context(fresh) else {}
    extras = {name: value for name, value in selected.extras.items() if name in inspect.signature(fresh.fit).parameters}
    try:
        result = fresh.fit(selected.X, selected.y, **context, **extras)
    except Exception as error:
        if part.data() is not None:
            raise
        raise AssertionError(_unsuited(part, error)) from error
    return fresh if result is None else result


def _unsuited(part: Registered, error: Exception) -> str:
    return f"{part} cannot learn from a small table ({error}): give it a class method example_data() -> contracts.Selected"


def _said(fitted: Any, selected: Selected) -> Any:
    rows = type(fitted).example_rows() if hasattr(fitted, "example_rows") else selected.X
    return fitted.predict(rows) if hasattr(fitted, "predict") else fitted.transform(rows)


def _fold_is_sound(fold: Fold, selected: Selected, name: str) -> None:
    if fold.train is None or fold.test is None:
        return
    rows = len(selected.X)
    both = np.concatenate([fold.train, fold.test])
    _expect(len(np.intersect1d(fold.train, fold.test)) == 0, f"{name}: a sealed row is fitted on")
    _expect(len(fold.train) > 0 and len(fold.test) > 0, f"{name}: an empty side")
    _expect(bool((both >= 0).all() and (both < rows).all()), f"{name}: a position that no row has")
    _expect(len(np.unique(fold.test)) == len(fold.test), f"{name}: a row is judged twice in one fold")


def _metrics_are_sound(metrics: Any, name: str) -> None:
    listed = list(metrics)
    _expect(bool(listed), f"{name} has no metric")
    words = [word for metric in listed for word in (metric.name, *metric.aliases)]
    twice = sorted({word for word in words if words.count(word) > 1})
    _expect(not twice, f"{name}: {', '.join(twice)} means two metrics")
    directions: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")
    for metric in listed:
        _expect(metric.direction in directions, f"{name}: {metric.name} has direction {metric.direction!r}")


def _refuses_broken_columns(predict: Callable[[pd.DataFrame], Any], rows: pd.DataFrame, name: str) -> None:
    numbers = [column for column in rows.columns if rows[column].dtype.kind == "f" and column in ("a", "b", "c")]
    numbers = numbers or [column for column in rows.columns if rows[column].dtype.kind == "f"]
    if numbers:
        column = numbers[0]
        _raises(predict, rows.drop(columns=column), f"{name} does not miss column {column}")
        _raises(predict, rows.assign(**{column: "text"}), f"{name} takes text in column {column}")


__all__ = ["CHECKS", "Check", "Registered", "parts_and_checks"]
