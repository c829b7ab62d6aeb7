"""Every registered part keeps the contract; a newcomer is tested the day it appears. And each check can fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, ConfigDict

from recipeline import checks, registry
from recipeline.checks import CHECKS, Registered, parts_and_checks
from recipeline.contracts import Evaluation, Fold, Metric, Selected, Split
from recipeline.registry import Entry


@pytest.mark.parametrize(("part", "check"), parts_and_checks(), ids=str)
def test_contract(part, check, tmp_path):
    """One part, one check; `recipeline.checks` says what each of them means."""
    check(part, tmp_path)


def test_every_role_with_parts_is_checked_and_a_newcomer_at_once():
    """The suite finds parts by itself; one registered now is in the next list."""
    covered = {part.entry.role for part, _ in parts_and_checks("recipeline")}
    assert covered >= {"loader", "augmenter", "preprocessor", "task", "splitter", "evaluator", "adapter"}
    registry.register("model", "newcomer", Moody)
    try:
        assert "model:newcomer" in {str(part) for part, _ in parts_and_checks()}
        assert {str(part) for part, _ in parts_and_checks("")} == {"model:newcomer"}
    finally:
        registry.unregister("model", "newcomer")


# --- parts that break the contract, each in one way ---


class Fitted:
    def fit(self, X, y=None):
        return self


class Moody(Fitted):
    """Says something else every time."""

    def predict(self, X):
        return np.random.default_rng().normal(size=len(X))


class Careless(Fitted):
    """Writes into what it is given."""

    def predict(self, X):
        X.iloc[:, 0] = 0.0
        return np.zeros(len(X))


class Forgetful(Fitted):
    """Keeps half of what it learned."""

    def fit(self, X, y=None):
        self.mean = float(np.mean(y))
        return self

    def predict(self, X):
        return np.full(len(X), self.mean)

    def save(self, folder: Path):
        (folder / "mean.txt").write_text(f"{self.mean:.1f}")

    @classmethod
    def load(cls, folder: Path):
        found = cls()
        found.mean = float((folder / "mean.txt").read_text()) + 0.5
        return found


class Picky(Fitted):
    """Learns only from what it does not describe."""

    def fit(self, X, y=None):
        raise ValueError("an environment is wanted")

    def predict(self, X):
        return X


class Swallowing(Fitted):
    """Takes anything."""

    def __init__(self, **rest):
        self.rest = rest

    def predict(self, X):
        return X


class Silent(Fitted):
    def predict(self, X):
        return X


class Lossy(Fitted):
    """Loses rows."""

    def transform(self, X):
        return X.iloc[1:]


class Unstable:
    """Other rows each time."""

    count = 0

    def load(self):
        type(self).count += 1
        return pd.DataFrame({"a": [self.count]})

    def batches(self, rows):
        import pyarrow as pa

        yield pa.RecordBatch.from_pydict({"a": [0, 0]})


class Meddling:
    """Changes its input."""

    def augment(self, frame, *, online):
        frame["brought"] = 1
        return frame


class Different:
    """Brings other columns online."""

    def augment(self, frame, *, online):
        return frame.assign(brought=int(online))


class Leaky:
    """Fits on what it seals."""

    def split(self, selected: Selected, task):
        return Split((Fold(np.arange(40), np.arange(30, 60)),))

    def inner(self, selected, task, folds):
        return ()


class Dice:
    """Cuts without a seed."""

    def split(self, selected: Selected, task):
        order = np.random.default_rng().permutation(60)
        return Split((Fold(order[:40], order[40:]),))

    def inner(self, selected, task, folds):
        return ()


class OpenInterface(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Loose:
    """Accepts misspelt keys, names parts that nobody registered, and one metric twice."""

    Interface = OpenInterface
    metrics = (Metric("mae", "minimize", "prediction", max), Metric("loss", "minimize", "prediction", max, aliases=("mae",)))
    splitter, evaluator, preprocessor, streams = "no_such_splitter", "no_such_evaluator", None, "rows"


class Chatty:
    """Reports what it was not asked for."""

    @property
    def measures(self):
        from recipeline.components.classification import Classification
        from recipeline.components.regression import Regression

        return (*Classification.metrics, *Regression.metrics)

    def judge(self, pipeline, part):
        return Evaluation(dict.fromkeys((*part.metrics, "surprise"), 0.5))


def named(name, role, made):
    return Registered(Entry(role, name, f"tests:{made.__name__}", "", made))


@pytest.mark.parametrize(
    ("role", "made", "check", "words"),
    [
        ("model", Moody, "same_seed_same_result", "second time"),
        ("model", Careless, "leaves_its_input_alone", "changed X"),
        ("model", Forgetful, "saving_and_loading_changes_no_bit", "saved and loaded"),
        ("model", Picky, "same_seed_same_result", "example_data"),
        ("model", Swallowing, "names_its_arguments", "kwargs"),
        ("model", Silent, "says_what_it_is", "docstring"),
        ("preprocessor", Lossy, "transforms_every_row", "lost rows"),
        ("loader", Unstable, "loads_the_same_twice", "second time"),
        ("loader", Unstable, "its_batches_are_its_rows", "streams other rows"),
        ("augmenter", Meddling, "augments_without_touching_its_input", "changed its input"),
        ("augmenter", Different, "augments_without_touching_its_input", "online"),
        ("splitter", Leaky, "its_folds_are_disjoint", "sealed row is fitted on"),
        ("splitter", Dice, "its_folds_come_from_the_seed", "second time"),
        ("task", Loose, "its_interface_forbids_unknown_keys", "unknown keys"),
        ("task", Loose, "its_defaults_are_registered", "no_such_splitter"),
        ("task", Loose, "its_metrics_have_names_of_their_own", "mae means two"),
        ("part", Silent, "is_listed_under_one_name", "registered by"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_part_that_breaks_the_contract_is_caught(role, made, check, words, tmp_path):
    """Each check, held against a part that breaks exactly that promise."""
    (found,) = [one for one in CHECKS if str(one) == check]
    assert role in found.roles
    with pytest.raises(AssertionError, match=words):
        found(named("planted", role, made), tmp_path)


def test_an_evaluator_that_reports_something_else_is_caught(tmp_path):
    """Judged under the name that the built-in tasks ask for."""
    with pytest.raises(AssertionError, match="surprise"):
        checks.reports_only_what_it_announced(named("tabular_evaluator", "evaluator", Chatty), tmp_path)


def test_a_metric_must_be_one(tmp_path):
    """Under its own name."""
    with pytest.raises(AssertionError, match="not a Metric"):
        checks.is_a_metric(Registered(Entry("metric", "x", "a:b", "", SimpleNamespace(name="x"))), tmp_path)
    with pytest.raises(AssertionError, match="calls itself y"):
        checks.is_a_metric(Registered(Entry("metric", "x", "a:b", "", Metric("y", "minimize", "prediction", max))), tmp_path)


def test_a_task_that_lets_broken_columns_through_is_caught(tmp_path, monkeypatch):
    """The built-in classification, with a contract that conforms to anything."""
    from recipeline.schema import InputSchema

    (part,) = [Registered(entry) for entry in registry.entries("task", "classification")]
    checks.a_task_refuses_broken_columns(part, tmp_path)
    monkeypatch.setattr(InputSchema, "conform", lambda self, frame, **rest: frame)
    with pytest.raises(AssertionError, match="does not miss column"):
        checks.a_task_refuses_broken_columns(part, tmp_path)
    with pytest.raises(AssertionError, match="does not miss column"):
        checks.wrong_columns_are_a_data_error(named("planted", "preprocessor", Tolerant), tmp_path)


class Tolerant(Fitted):
    """Makes zeros of whatever it is given."""

    def transform(self, X):
        return np.zeros((len(X), 1))


def test_an_answer_without_its_columns_is_caught(tmp_path, monkeypatch):
    """A task that declares more than it gives."""
    from recipeline.components.regression import Regression
    from recipeline.contracts import Output

    monkeypatch.setattr(Regression, "output", lambda self, schema: Output((), ("prediction", "interval")))
    (part,) = [Registered(entry) for entry in registry.entries("task", "regression")]
    with pytest.raises(AssertionError, match="interval"):
        checks.takes_data_apart_and_puts_answers_together(part, tmp_path)


def test_a_library_that_is_missing_is_not_a_broken_part(monkeypatch):
    """All that is asked of such a part is to say what to install."""
    monkeypatch.setattr(registry, "EXTRAS", {**registry.EXTRAS, "surely_not_here": "spline"})
    entry = Entry("model", "lstm", "surely_not_here:Model", "acme")
    monkeypatch.setattr(registry, "entries", lambda *arguments, **words: (entry,))
    ((part, check),) = parts_and_checks("acme")
    assert str(check) == "_missing_library"
    check(part, Path())
