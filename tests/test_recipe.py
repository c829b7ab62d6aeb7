"""The grammar of recipes, and mistakes in them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mistakes
from recipeline import document, recipe
from recipeline.errors import Problem, RecipeError, dotted
from recipeline.recipe import MISSING, Named, PartSpec, Range

PROJECT = Path(__file__).parents[1]

CHURN = """\
name: churn
seed: 7
model:
  class_path: sklearn.ensemble.RandomForestClassifier   # dotted path, or the name of a registered part
  hyperparameters:
    n_estimators: 300
    max_depth: {type: int, low: 3, high: 20}
    max_features: {type: float, low: 0.01, high: 1.0, log: true, default: 0.5}
    criterion: {type: categorical, choices: [gini, entropy, null]}
  loader:
    name: default_loader
    source_uri: sql/spine.sql.j2
  augmenter: {type: feature_store, features: [{feature_namespace: user_demographics, features: [age, country]}]}
  preprocessor:
    name: default_preprocessor
    params:
      exclude_cols: [user_id]
      numerical_strategy: {type: categorical, choices: [standard, robust]}
  data_interface: {task_type: classification, target_col: churned, entity_cols: [user_id], timestamp_col: event_timestamp}
hyperparameter_tuning:
  enabled: true
  n_trials: 50
  metric: roc_auc
  direction: maximize
  pruning: {enabled: true, algorithm: MedianPruner, n_startup_trials: 5, n_warmup_steps: 1}
evaluation:
  metrics: [accuracy, roc_auc, log_loss]
  validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}
"""

ENSEMBLE = """\
name: ensemble
model:
  class_path: sklearn.ensemble.VotingClassifier
  hyperparameters:
    estimators:
      - name: rf
        estimator:
          class_path: sklearn.ensemble.RandomForestClassifier
          hyperparameters:
            n_estimators: {type: int, low: 50, high: 200}
      - name: pipe
        estimator:
          class_path: sklearn.pipeline.Pipeline
          hyperparameters:
            steps:
              - {name: scale, transformer: {class_path: sklearn.preprocessing.StandardScaler}}
              - name: clf
                estimator:
                  type: categorical
                  choices:
                    - class_path: sklearn.linear_model.LogisticRegression
                      hyperparameters: {C: {type: float, low: 0.01, high: 10, log: true}}
                    - class_path: sklearn.svm.SVC
                      hyperparameters:
                        C: {type: float, low: 0.1, high: 100, log: true, default: 1.0}
                        probability: true
    voting: soft
  loader: {source_uri: data/x.parquet}
  preprocessor:
    class_path: sklearn.compose.ColumnTransformer
    params:
      transformers:
        - name: numbers
          transformer: {class_path: sklearn.preprocessing.StandardScaler}
          columns: [age, income]
        - name: words
          transformer:
            class_path: sklearn.preprocessing.OneHotEncoder
            params: {handle_unknown: ignore}
          columns: {class_path: sklearn.compose.make_column_selector, params: {dtype_include: object}}
        - {name: rest, transformer: drop, columns: [id]}
  data_interface:
    task_type: classification
    target_col: y
hyperparameter_tuning:
  enabled: true
  n_trials: 20
evaluation:
  metrics:
    - accuracy
    - f1
  validation:
    method: cross_validation
    n_splits: 5
  evaluator: {name: tabular_evaluator, params: {bootstrap: 200}}
"""

POLICY = """\
name: cartpole
model:
  class_path: ppo
  hyperparameters:
    policy: mlp
    hidden: [64, 64]
    learning_rate: {schedule: linear, start: 1.0e-3, end: 0}
    ent_coef: {schedule: cosine, start: 0.01, end: 0.001, steps: 10000}
    operations: {class_path: operations, hyperparameters: {checkpoint: {every_steps: 500, keep: 5}, anomaly: {}, rollback: {}}}
    knobs: {coil_outlet_temperature: {unit: degC, low: 820, high: 870, trust: 10, ramp: 4}}
    terms: [{class_path: revenue}, {class_path: move_penalty, params: {per_degree: 2.0}}]
  loader: {name: gymnasium, params: {id: CartPole-v1, n_envs: 8}}
  preprocessor: {name: observation_normalizer, params: {clip: 10}}
  data_interface: {task_type: reinforcement}
hyperparameter_tuning: {enabled: false, n_trials: 20, metric: return_lcb, direction: maximize, seeds_per_trial: 3}
evaluation: {metrics: [return_mean, return_iqm, success_rate], validation: {method: episodes, episodes: 100, deterministic: true}}
"""

MINIMAL = """\
model:
  class_path: sklearn.linear_model.LinearRegression
  loader: {source_uri: x.csv}
  data_interface: {task_type: regression, target_col: y}
"""

TEXTS = {"churn": CHURN, "ensemble": ENSEMBLE, "policy": POLICY, "minimal": MINIMAL}


def problems(text: str) -> list[Problem]:
    return list(recipe.draft(text).problems)


def model(arguments: str, *, tuned: bool = True) -> str:
    """A recipe whose hyperparameters are the given flow mapping, on line 3."""
    return (
        "model:\n  class_path: pkg.Model\n  hyperparameters: " + arguments + "\n  loader: {source_uri: x.csv}\n"
        "  data_interface: {task_type: regression}\n" + ("hyperparameter_tuning: {enabled: true}\n" if tuned else "")
    )


def only(text: str) -> Problem:
    (problem,) = problems(text)
    return problem


# --- what is understood ------------------------------------------------------------------------


def test_every_section_of_the_grammar_is_read() -> None:
    read = recipe.load(CHURN)
    assert (read.name, read.seed, read.task_type) == ("churn", 7, "classification")
    assert read.model.reference == "sklearn.ensemble.RandomForestClassifier"
    assert read.model.arguments["n_estimators"] == 300
    assert read.loader == PartSpec(
        "loader", "default_loader", {"source_uri": "sql/spine.sql.j2"}, ("model", "loader"), ("model", "loader", "params"),
        ("model", "loader", "name"), frozenset({"source_uri"}),
    )  # fmt: skip
    assert read.augmenter is not None
    assert read.augmenter.arguments["features"][0]["feature_namespace"] == "user_demographics"
    assert read.interface["entity_cols"] == ["user_id"]
    assert read.interface["task_type"] == "classification"
    assert (read.tuning.n_trials, read.tuning.metric, read.tuning.pruning.algorithm) == (50, "roc_auc", "MedianPruner")
    assert read.metrics == ("accuracy", "roc_auc", "log_loss")
    assert read.validation is not None
    assert (read.validation.role, read.validation.reference) == ("splitter", "train_test_split")
    assert read.validation.arguments == {"test_size": 0.2, "stratify": True, "random_state": 42}


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "my_model.yaml"
    path.write_text(MINIMAL)
    read = recipe.load(path)
    assert (read.name, read.seed, read.path) == ("my_model", 42, path)
    assert (read.loader.reference, read.augmenter, read.preprocessor, read.validation, read.evaluator) == (
        "default_loader",
        None,
        None,
        None,
        None,
    )
    assert read.metrics == ()
    assert read.tuning.enabled is False
    assert read.tuning.pruning.enabled is False


def test_an_argument_knows_where_it_stands() -> None:
    """Beside the name of the part, in params or in hyperparameters."""
    read = recipe.load(CHURN)
    assert read.loader.key_of("source_uri") == ("model", "loader", "source_uri")
    assert read.loader.key_of("columns") == ("model", "loader", "params", "columns")
    assert read.model.key_of("max_depth") == ("model", "hyperparameters", "max_depth")
    assert read.validation is not None
    assert read.validation.key_of("test_size") == ("evaluation", "validation", "test_size")
    assert read.document.mark(read.model.key_of("max_depth")) == (7, 5)


@pytest.mark.parametrize("word", ["name", "type", "class_path"])
@pytest.mark.parametrize("arguments", ["params", "hyperparameters"])
def test_names_and_arguments_have_synonyms_at_the_places_of_the_grammar(word: str, arguments: str) -> None:
    loader = f"{{{word}: my_loader, {arguments}: {{b: 2}}}}"
    text = f"model: {{{word}: forest, {arguments}: {{a: 1}}, loader: {loader}, data_interface: {{task_type: x}}}}\n"
    read = recipe.load(text)
    assert (read.model.reference, read.model.arguments) == ("forest", {"a": 1})
    assert (read.loader.reference, read.loader.arguments) == ("my_loader", {"b": 2})


def test_parts_nest_to_any_depth_by_class_path_only() -> None:
    """{name: …} inside arguments is a plain mapping."""
    read = recipe.load(
        model(
            "{a: {class_path: p.A, params: {b: {class_path: p.B, hyperparameters: {c: [{class_path: p.C}]}}}}, d: {name: x, params: {}}}",
            tuned=False,
        )
    )
    assert [spec.reference for spec in read.specs()] == ["pkg.Model", "p.A", "p.B", "p.C", "default_loader"]
    assert all(spec.role == "part" for spec in read.specs()[1:4])
    assert read.model.arguments["d"] == {"name": "x", "params": {}}


def test_lists_of_names_and_estimators_become_named_items() -> None:
    """The tuples that scikit-learn wants, with the columns where there are any."""
    read = recipe.load(ENSEMBLE)
    first, second = read.model.arguments["estimators"]
    assert isinstance(first, Named)
    assert (first.name, first.value.reference, first.columns) == ("rf", "sklearn.ensemble.RandomForestClassifier", MISSING)
    assert first.tuple_of("built") == ("rf", "built")
    assert [step.name for step in second.value.arguments["steps"]] == ["scale", "clf"]
    assert read.preprocessor is not None
    numbers, words, rest = read.preprocessor.arguments["transformers"]
    assert numbers.tuple_of("built", numbers.columns) == ("numbers", "built", ["age", "income"])
    assert isinstance(words.columns, PartSpec)
    assert rest.value == "drop"


def test_a_step_may_name_its_class_and_columns_at_once() -> None:
    """The short form of a preprocessing step; unnamed ones are named as scikit-learn's make_pipeline would."""
    first, second = "{class_path: p.Scaler, columns: [a]}", "{class_path: p.Scaler, params: {k: 1}, columns: [b]}"
    text = model(f"{{steps: [{first}, {second}, {{name: last, class_path: q.Z, columns: [c]}}]}}", tuned=False)
    steps = recipe.load(text).model.arguments["steps"]
    assert [(step.name, step.value.reference, step.columns) for step in steps] == [
        ("scaler", "p.Scaler", ["a"]),
        ("scaler-2", "p.Scaler", ["b"]),
        ("last", "q.Z", ["c"]),
    ]
    assert steps[1].value.arguments == {"k": 1}


def test_ranges_are_named_by_their_path_without_indices() -> None:
    assert [found.name for found in recipe.load(CHURN).ranges()] == [
        "max_depth",
        "max_features",
        "criterion",
        "preprocessor.numerical_strategy",
    ]
    assert [found.name for found in recipe.load(ENSEMBLE).ranges()] == [
        "rf.n_estimators",
        "pipe.clf",
        "pipe.clf.LogisticRegression.C",
        "pipe.clf.SVC.C",
    ]


def test_names_of_ranges_are_unique() -> None:
    """Unnamed items of a list are counted from the second; parts in a list are named by their class."""
    one = "{type: int, low: 1, high: 9, default: 2}"
    term = f"{{class_path: p.Cost, params: {{w: {one}}}}}"
    read = recipe.load(model(f"{{hidden: [{one}, {one}], terms: [{term}, {term}]}}"))
    assert [found.name for found in read.ranges()] == ["hidden", "hidden_2", "terms.Cost.w", "terms.Cost.w_2"]


def test_a_range_keeps_what_is_written() -> None:
    depth, features, criterion, _ = recipe.load(CHURN).ranges()
    assert (depth.type, depth.low, depth.high, depth.default, depth.log) == ("int", 3, 20, MISSING, False)
    assert (features.type, features.low, features.log, features.default) == ("float", 0.01, True, 0.5)
    assert criterion.choices == ("gini", "entropy", None)
    assert depth.key == ("model", "hyperparameters", "max_depth")


def test_null_is_a_default() -> None:
    (found,) = recipe.load(model("{max_depth: {type: int, low: 3, high: 20, default: null}}", tuned=False)).ranges()
    assert found.default is None
    assert recipe.load(model("{max_depth: {type: int, low: 3, high: 20, default: null}}", tuned=False)).model.filled().arguments == {
        "max_depth": None
    }


def test_a_literal_mapping_is_passed_untouched() -> None:
    """Whatever it looks like."""
    inner = "{type: int, low: 3, high: 20, class_path: os.system}"
    read = recipe.load(model(f"{{a: {{literal: {inner}}}}}", tuned=False))
    assert read.model.arguments == {"a": {"type": "int", "low": 3, "high": 20, "class_path": "os.system"}}
    assert read.ranges() == ()
    assert [spec.reference for spec in read.specs()] == ["pkg.Model", "default_loader"]


def test_mappings_that_are_no_ranges_are_plain_values() -> None:
    """Schedules and knobs of plugins have `low` and `high` of their own."""
    read = recipe.load(POLICY)
    assert read.ranges() == ()
    assert read.model.arguments["knobs"]["coil_outlet_temperature"] == {"unit": "degC", "low": 820, "high": 870, "trust": 10, "ramp": 4}
    assert read.model.arguments["learning_rate"] == {"schedule": "linear", "start": 1e-3, "end": 0}
    assert read.tuning.seeds_per_trial == 3


def test_disabled_tuning_is_a_switch_and_no_error() -> None:
    read = recipe.load(MINIMAL + "hyperparameter_tuning: {enabled: false, n_trials: 3, pruning: {enabled: true}}\n")
    assert read.tuning.enabled is False
    assert read.tuning.n_trials == 3


def test_tuning_without_a_switch_is_on_where_there_is_something_to_tune() -> None:
    """The guide writes `hyperparameter_tuning: {n_trials: 10}`."""
    assert recipe.load(MINIMAL + "hyperparameter_tuning: {n_trials: 10}\n").tuning.enabled is False
    ranged = model("{a: {type: int, low: 1, high: 2}}", tuned=False) + "hyperparameter_tuning: {n_trials: 10}\n"
    assert recipe.load(ranged).tuning.enabled is True


def test_a_key_that_only_the_task_can_know_is_kept_for_it() -> None:
    assert recipe.load(MINIMAL + "hyperparameter_tuning: {enabled: false, horizon_of_task: 3}\n").tuning.extra == {"horizon_of_task": 3}


def test_null_sections_are_empty_ones() -> None:
    text = MINIMAL + "  augmenter:\n  hyperparameters:\nhyperparameter_tuning:\nevaluation:\n  metrics:\n  validation:\n"
    read = recipe.load(text)
    assert (read.augmenter, read.metrics, read.validation, read.model.arguments) == (None, (), None, {})


def test_recipes_come_from_files_text_and_mappings(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(CHURN)
    data = document.parse(CHURN).data
    for source in (path, str(path), CHURN, data, json.dumps(data)):
        assert [spec.reference for spec in recipe.load(source).specs()] == [spec.reference for spec in recipe.load(CHURN).specs()]


def test_a_recipe_survives_pickling_and_copying() -> None:
    """Independent chains run in processes of their own."""
    read = recipe.load(ENSEMBLE)
    for again in (pickle.loads(pickle.dumps(read)), copy.deepcopy(read)):
        assert again.model == read.model
        assert again.ranges() == read.ranges()
        assert again.ranges()[0].default is MISSING


# --- values for ranges ---------------------------------------------------------------------------


def test_ranges_are_filled_with_values_then_defaults_then_left_out() -> None:
    """What is left out takes the constructor's own default."""
    read = recipe.load(CHURN)
    assert read.model.filled().arguments == {"n_estimators": 300, "max_features": 0.5}
    filled = read.model.filled({"max_depth": 5, "criterion": None})
    assert filled.arguments == {"n_estimators": 300, "max_depth": 5, "max_features": 0.5, "criterion": None}


def test_a_choice_between_parts_is_given_by_its_label() -> None:
    """Without a value the first stands in, for a step cannot be left out."""
    read = recipe.load(ENSEMBLE)
    choose = next(found for found in read.ranges() if found.name == "pipe.clf")
    assert choose.labels == ("LogisticRegression", "SVC")
    assert choose.index_of("SVC") == choose.index_of(choose.choices[1]) == 1
    step = read.model.filled().arguments["estimators"][1].value.arguments["steps"][1]
    assert (step.value.reference, step.value.arguments) == ("sklearn.linear_model.LogisticRegression", {})
    step = read.model.filled({"pipe.clf": "SVC", "pipe.clf.SVC.C": 3.0}).arguments["estimators"][1].value.arguments["steps"][1]
    assert (step.value.reference, step.value.arguments) == ("sklearn.svm.SVC", {"C": 3.0, "probability": True})


def test_choices_keep_their_kinds_apart() -> None:
    """1, 1.0, true and "1" are four choices."""
    (found,) = recipe.load(model("{a: {type: categorical, choices: [1, 1.0, true, '1', [1, 2], {b: 1}]}}")).ranges()
    assert [found.index_of(value) for value in (1, 1.0, True, "1", [1, 2], {"b": 1})] == [0, 1, 2, 3, 4, 5]
    assert found.index_of("[1, 2]") == 4
    assert found.index_of("no such") is None
    with pytest.raises(RecipeError, match="not a choice"):
        found.choice_of("no such")


def test_labels_are_unique() -> None:
    (found, *_) = recipe.load(model("{a: {type: categorical, choices: [{class_path: p.A}, {class_path: q.A, params: {k: 1}}]}}")).ranges()
    assert found.labels == ("A", "A_2")


def test_numbers_of_numpy_are_taken_as_numbers() -> None:
    import numpy as np

    read = recipe.load(CHURN)
    filled = read.model.filled({"max_depth": np.int64(5), "max_features": np.float64(0.1), "criterion": np.str_("gini")})
    assert filled.arguments["max_depth"] == 5
    assert type(filled.arguments["max_depth"]) is int
    assert type(filled.arguments["max_features"]) is float
    assert filled.arguments["criterion"] == "gini"


@pytest.mark.parametrize("name", TEXTS)
def test_a_resolved_recipe_is_a_recipe_again(name: str) -> None:
    """No range is left, resolving again changes nothing, and it builds what filling builds."""
    read = recipe.load(TEXTS[name])
    rng = random.Random(5)
    values: dict[str, Any] = {}
    for found in read.ranges():
        values[found.name] = rng.choice(found.labels) if found.type == "categorical" else rng.choice([found.low, found.high])
    for given in ({}, values):
        resolved = read.resolved(given)
        again = recipe.load(document.dump(resolved))
        assert again.ranges() == ()
        assert again.resolved() == resolved
        assert _plain(again.model) == _plain(read.model.filled(given))
        assert (again.name, again.seed, again.metrics) == (read.name, read.seed, read.metrics)
        assert again.tuning.enabled is False


def _plain(value: Any) -> Any:
    """References and arguments alone, without places."""
    if isinstance(value, PartSpec):
        return value.reference, {name: _plain(inner) for name, inner in value.arguments.items()}
    if isinstance(value, Named):
        return value.name, _plain(value.value), _plain(value.columns)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def test_resolving_leaves_the_recipe_alone() -> None:
    read = recipe.load(CHURN)
    before = copy.deepcopy(read.document.data)
    read.resolved({"max_depth": 4})["model"]["hyperparameters"]["n_estimators"] = 1
    assert read.document.data == before


def test_a_literal_stays_a_literal_when_resolved() -> None:
    text = model(
        "{a: {literal: {type: int, low: 1, high: 2}}, b: {type: categorical, choices: [{literal: {class_path: x}}, 2], default: 2}}"
    )
    resolved = recipe.load(text).resolved({"b": {"class_path": "x"}})
    again = recipe.load(resolved)
    assert again.model.arguments == {"a": {"type": "int", "low": 1, "high": 2}, "b": {"class_path": "x"}}


def test_values_for_ranges_that_are_not_there_are_errors() -> None:
    with pytest.raises(RecipeError, match="did you mean max_depth"):
        recipe.load(CHURN).resolved({"max_dept": 3})
    with pytest.raises(RecipeError, match="not a choice of criterion"):
        recipe.load(CHURN).resolved({"criterion": "ginny"})


# --- mistakes ------------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once_sorted_by_line() -> None:
    """Each with file, line and column, the nearest name, and what to do."""
    text = (
        "nme: churn\n"
        "model:\n"
        "  class_path: sklearn.linear_model.LogisticRegression\n"
        "  hyperparameters:\n"
        "    C: {type: float, low: 10, high: 0.1, lgo: true}\n"
        "  loader: {name: default_loader, source_url: x.csv}\n"
        "  data_interface: {task_typ: classification, target_col: y}\n"
        "hyperparameter_tuning:\n"
        "  enabled: true\n"
        "  n_trials: 0\n"
        "  direction: min\n"
        "evaluation:\n"
        "  metrics: [accuracy, accuracy]\n"
        "  validation: {methd: train_test_split}\n"
        "  test_size: 0.2\n"
    )
    found = recipe.draft(text).problems
    assert [(problem.line, dotted(problem.key), problem.suggestion) for problem in found] == [
        (1, "nme", "name"),
        (5, "model.hyperparameters.C.low", None),
        (5, "model.hyperparameters.C.lgo", "log"),
        (6, "model.loader.source_url", "source_uri"),
        (7, "model.data_interface.task_typ", "task_type"),
        (10, "hyperparameter_tuning.n_trials", None),
        (11, "hyperparameter_tuning.direction", "minimize"),
        (13, "evaluation.metrics[1]", None),
        (14, "evaluation.validation.methd", "method"),
        (15, "evaluation.test_size", "evaluation.validation.test_size"),
    ]
    assert str(found[3]) == "error[unknown-key] <recipe>:6:34: model.loader.source_url: unknown key; did you mean source_uri?"
    with pytest.raises(RecipeError) as caught:
        recipe.load(text)
    assert caught.value.problems == found
    assert caught.value.code == 3


@pytest.mark.parametrize(
    ("arguments", "slug", "words"),
    [
        ("{a: {type: int, low: 3}}", "missing-key", "high"),
        ("{a: {type: int, high: 3}}", "missing-key", "low"),
        ("{a: {type: int, low: 3, high: 3}}", "bad-value", "not less than"),
        ("{a: {type: int, low: 9, high: 3}}", "bad-value", "not less than"),
        ("{a: {type: int, low: 1.5, high: 3}}", "bad-value", "whole number"),
        ("{a: {type: int, low: true, high: 3}}", "bad-value", "whole number"),
        ("{a: {type: int, low: '1', high: 3}}", "bad-value", "whole number"),
        ("{a: {type: float, low: .nan, high: 3}}", "bad-value", "finite number"),
        ("{a: {type: float, low: 0, high: 3, log: true}}", "bad-value", "log needs low > 0"),
        ("{a: {type: float, low: 1, high: 3, log: true, step: 1}}", "bad-value", "exclude each other"),
        ("{a: {type: float, low: 1, high: 3, step: 0}}", "bad-value", "step"),
        ("{a: {type: int, low: 1, high: 3, step: -1}}", "bad-value", "step"),
        ("{a: {type: int, low: 1, high: 3, step: 7}}", "bad-value", "step"),
        ("{a: {type: int, low: 1, high: 3, log: 'yes'}}", "bad-value", "true or false"),
        ("{a: {type: int, low: 1, high: 3, choices: [1]}}", "unknown-key", "unknown key"),
        ("{a: {type: int, low: 1, high: 3, default: [1]}}", "bad-value", "not a number"),
        ("{a: {type: categorical}}", "missing-key", "choices"),
        ("{a: {type: categorical, choices: []}}", "bad-value", "choices"),
        ("{a: {type: categorical, choices: abc}}", "bad-value", "choices"),
        ("{a: {type: categorical, choices: [1, 1]}}", "duplicate-value", "twice"),
        ("{a: {type: categorical, choices: [1, {type: int, low: 1, high: 2}]}}", "bad-value", "not a choice"),
        ("{a: {type: categorical, choices: [{class_path: p.A}, {class_path: p.B}], default: C}}", "bad-value", "not one of the choices"),
        ("{a: {type: integer, low: 1, high: 2}}", "bad-value", "not one of int, float, categorical"),
        ("{a: {tpye: int, low: 1, high: 2}}", "unknown-key", "did you mean type?"),
        ("{a: [{type: int, low: 1, high: 2}]}", "missing-key", "default"),
        ("{a: {class_pth: p.A}}", "unknown-key", "did you mean class_path?"),
        ("{a: {class_path: p.A, prams: {b: 1}}}", "unknown-key", "did you mean params?"),
        ("{a: {class_path: p.A, name: x}}", "unknown-key", "unknown key"),
        ("{a: {class_path: p.A, params: {b: 1}, hyperparameters: {c: 1}}}", "duplicate-key", "synonyms"),
        ("{a: {class_path: p.A, params: [1]}}", "bad-value", "not a mapping"),
        ("{a: {class_path: 17}}", "bad-value", "not the name of a part"),
        ("{a: [{name: x, estimatr: {class_path: p.A}}]}", "unknown-key", "did you mean estimator?"),
        ("{a: [{nmae: x, estimator: {class_path: p.A}}]}", "unknown-key", "did you mean name?"),
        ("{a: [{name: x, estimator: {class_pth: p.A}}]}", "unknown-key", "did you mean class_path?"),
        ("{a: [{name: x, estimator: p.A}]}", "bad-value", "not a part"),
        ("{a: [{name: x, transformer: {class_path: p.A}, colums: [a]}]}", "unknown-key", "did you mean columns?"),
        ("{a: [{name: x, estimator: {class_path: p.A}}, {name: x, estimator: {class_path: p.B}}]}", "duplicate-value", "names two items"),
        ("{a: [{name: 17, estimator: {class_path: p.A}}]}", "bad-value", "not a name"),
        ("{17: x}", "bad-key", "not the name of an argument"),
        ("[a, b]", "bad-value", "not a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_in_arguments_is_one_problem_at_its_line(arguments: str, slug: str, words: str) -> None:
    """One mistake, one error: never six for one typo."""
    problem = only(model(arguments, tuned=False) + "hyperparameter_tuning: {n_trials: 3}\n")
    assert (problem.slug, problem.line) == (slug, 3)
    assert words in str(problem)


def test_a_range_without_tuning_is_an_error_unless_it_has_a_default_or_tuning_is_switched_off() -> None:
    """`enabled: false` is a switch: the constructor's own defaults hold."""
    bare = "{a: {type: int, low: 1, high: 2}}"
    assert (only(model(bare, tuned=False)).slug, only(model(bare, tuned=False)).line) == ("range-without-tuning", 3)
    assert problems(model(bare, tuned=False) + "hyperparameter_tuning: {enabled: false}\n") == []
    assert problems(model("{a: {type: int, low: 1, high: 2, default: 1}}", tuned=False)) == []


def test_tuning_with_nothing_to_tune_is_an_error() -> None:
    """A section that would be ignored."""
    problem = only(MINIMAL + "hyperparameter_tuning:\n  enabled: true\n")
    assert (problem.slug, problem.line) == ("ignored-section", 6)


@pytest.mark.parametrize("place", ["loader: {params: {a: %s}}", "augmenter: {name: x, params: {a: %s}}"])
def test_a_range_where_it_would_be_ignored_is_an_error(place: str) -> None:
    text = MINIMAL.replace("  loader: {source_uri: x.csv}\n", "") + f"  {place % '{type: int, low: 1, high: 2}'}\n"
    if "loader:" not in text:
        text += "  loader: {source_uri: x.csv}\n"
    assert only(text).slug == "ignored-range"


@pytest.mark.parametrize("value", ["0", "-1", "1000000000", "1.5", "'50'", "true", "many"])
def test_the_number_of_trials_has_its_limits(value: str) -> None:
    text = model("{a: {type: int, low: 1, high: 2}}", tuned=False) + f"hyperparameter_tuning:\n  n_trials: {value}\n"
    problem = only(text)
    assert (problem.slug, problem.line, dotted(problem.key)) == ("bad-value", 7, "hyperparameter_tuning.n_trials")


def test_words_that_are_known_are_listed_and_the_nearest_is_suggested() -> None:
    text = CHURN.replace("maximize", "maximise").replace("MedianPruner", "MedianPrunner")
    first, second = problems(text)
    assert "'maximise' is not one of maximize, minimize" in first.message
    assert (first.suggestion, second.suggestion) == ("maximize", "MedianPruner")
    assert second.line == first.line + 1


def test_two_synonyms_at_once_are_an_error_at_the_second() -> None:
    problem = only(MINIMAL.replace("  loader:", "  name: x\n  loader:"))
    assert (problem.slug, problem.line) == ("duplicate-key", 3)
    assert "class_path and name are synonyms" in problem.message


def test_an_argument_given_beside_and_in_params_is_an_error() -> None:
    problem = only(MINIMAL.replace("{source_uri: x.csv}", "{source_uri: x.csv, params: {source_uri: y.csv}}"))
    assert problem.slug == "duplicate-key"


@pytest.mark.parametrize("section", ["model", "loader", "data_interface"])
def test_a_missing_section_is_reported_where_it_belongs(section: str) -> None:
    text = "name: x\n" + "".join(line + "\n" for line in MINIMAL.splitlines() if section not in line or line == "model:")
    if section == "model":
        text = "name: x\n"
    problem = only(text)
    assert (problem.slug, problem.key[-1]) == ("missing-key", section)
    assert problem.line == (1 if section == "model" else 2)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("class_path: sklearn.linear_model.LinearRegression", "class_path: {type: categorical, choices: [a, b]}", 2),
        ("{source_uri: x.csv}", "default_loader", 3),
        ("{source_uri: x.csv}", "[x.csv]", 3),
        ("{task_type: regression, target_col: y}", "regression", 4),
        ("task_type: regression", "task_type: [regression]", 4),
        ("model:", "seed: 1.5\nmodel:", 1),
        ("model:", "seed: -1\nmodel:", 1),
        ("model:", "name: 17\nmodel:", 1),
        ("model:", "evaluation: [accuracy]\nmodel:", 1),
        ("model:", "evaluation: {metrics: accuracy}\nmodel:", 1),
        ("model:", "evaluation: {validation: train_test_split}\nmodel:", 1),
        ("model:", "evaluation: {validation: {test_size: 0.2}}\nmodel:", 1),
        ("model:", "hyperparameter_tuning: true\nmodel:", 1),
        ("model:", "hyperparameter_tuning: {pruning: true}\nmodel:", 1),
        ("model:", "evaluation: {evaluator: {params: {a: 1}}}\nmodel:", 1),
    ],
)
def test_a_wrong_value_is_one_problem_that_says_what_to_write(old: str, new: str, line: int) -> None:
    assert old in MINIMAL
    problem = only(MINIMAL.replace(old, new))
    assert problem.line == line
    assert problem.hint or "is not" in problem.message


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "a: !!python/object:os.system x\n"])
def test_a_file_that_is_no_recipe_at_all_is_a_draft_with_problems(text: str, tmp_path: Path) -> None:
    """Exit code 4 where something unsafe was asked for."""
    path = tmp_path / "a.yaml"
    path.write_text(text)
    draft = recipe.draft(path)
    assert draft.model is None
    assert draft.problems
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert caught.value.code == (4 if "python" in text else 3)


def test_a_draft_keeps_what_it_understood() -> None:
    """So that mistakes which need the classes are reported in the same breath."""
    draft = recipe.draft(CHURN.replace("n_trials: 50", "n_trials: 0").replace("loader:", "laoder:", 1))
    assert draft.model is not None
    assert draft.loader is None
    assert draft.tuning is None
    assert draft.metrics == ("accuracy", "roc_auc", "log_loss")
    assert len(draft.problems) == 2


def test_duplicate_keys_and_other_mistakes_are_reported_together() -> None:
    text = CHURN.replace("seed: 7\n", "seed: 7\nseed: 8\n").replace("n_trials: 50", "n_trails: 50")
    assert [problem.slug for problem in problems(text)] == ["duplicate-key", "unknown-key"]


def test_a_mapping_with_mistakes_names_their_keys() -> None:
    """There is no line to name."""
    with pytest.raises(RecipeError) as caught:
        recipe.load({"model": {"class_path": "a.B", "loader": {"source_url": "x"}, "data_interface": {"task_type": "x"}}})
    assert str(caught.value) == "error[unknown-key] <recipe>: model.loader.source_url: unknown key; did you mean source_uri?"


# --- planted mistakes ------------------------------------------------------------------------------


def _texts() -> dict[str, str]:
    shipped = {path.stem: path.read_text(encoding="utf-8") for path in sorted((PROJECT / "recipes").rglob("*.yaml"))}
    return {**TEXTS, **shipped}


def test_planted_mistakes_are_found_at_their_line_and_typos_get_the_right_name() -> None:
    """Every mistake that the grammar reveals, in every recipe; at least 90 % of typos with the right suggestion."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    typos = right = 0
    for name, text in _texts().items():
        for mistake in mistakes.planted(text, rng):
            kinds[mistake.kind] += 1
            found = recipe.draft(mistake.text).problems
            assert mistakes.found(mistake, found), f"seed {seed}, {name}, {mistake.kind} on line {mistake.line}: {found}\n{mistake.text}"
            if mistake.suggestion is not None:
                typos += 1
                right += mistakes.suggested(mistake, found)
    assert len(kinds) == 7
    assert min(kinds.values()) >= 5
    assert right >= 0.9 * typos, f"seed {seed}: {right} of {typos}"


def test_mistakes_for_the_classes_are_planted_too() -> None:
    """Each changes one line, and where a name is misspelt the line had the right one."""
    rng = random.Random(1)
    for text in TEXTS.values():
        for plant in mistakes.FOR_THE_CLASSES:
            for mistake in plant(text, rng):
                changed = [
                    number
                    for number, pair in enumerate(zip(text.split("\n"), mistake.text.split("\n"), strict=True), 1)
                    if pair[0] != pair[1]
                ]
                assert changed == [mistake.line]
                assert mistake.suggestion is not None
                assert mistake.suggestion in text.split("\n")[mistake.line - 1]
                assert recipe.draft(mistake.text).document.data != recipe.draft(text).document.data


def test_every_recipe_with_a_planted_mistake_is_refused_in_milliseconds() -> None:
    rng = random.Random(2)
    planted = list(mistakes.planted(ENSEMBLE, rng))
    began = time.process_time()
    for mistake in planted:
        assert recipe.draft(mistake.text).problems
    assert (time.process_time() - began) / len(planted) < 0.1


# --- the guide ---------------------------------------------------------------------------------------


def test_recipes_in_the_words_of_the_guide_are_recipes() -> None:
    """Its blocks show one section each; completed by the others they are read without a mistake."""
    base = {
        "class_path": "sklearn.linear_model.Ridge",
        "loader": {"name": "default_loader", "source_uri": "x.csv"},
        "data_interface": {"task_type": "regression", "target_col": "y"},
    }
    count = 0
    for block in GUIDE.split("\n====\n"):
        data = document.parse(block).data
        data["model"] = {**base, **data.get("model", {})}
        text = document.dump(data)
        if re.search(r"type: ['\"]?(int|float)", text) and "enabled" not in text:
            data["hyperparameter_tuning"] = {"enabled": True}
        assert recipe.draft(document.dump(data)).problems == (), block
        count += 1
    assert count == 10


GUIDE = """\
name: "my_classifier_experiment"
model:
  class_path: "sklearn.ensemble.RandomForestClassifier"
  hyperparameters:
    n_estimators: 100
    max_depth: {type: "int", low: 3, high: 20}
    min_samples_split: {type: "int", low: 2, high: 10}
  loader:
    name: "default_loader"
    source_uri: "data/classification_dataset.parquet"
  augmenter:
    type: "pass_through"
  preprocessor:
    name: "default_preprocessor"
    params:
      exclude_cols: ["user_id", "event_timestamp", "target"]
  data_interface:
    task_type: "classification"
    target_col: "target"
hyperparameter_tuning:
  enabled: true
  n_trials: 50
  metric: "roc_auc"
  direction: "maximize"
evaluation:
  metrics: ["accuracy", "precision", "recall", "f1", "roc_auc"]
  validation:
    method: "train_test_split"
    test_size: 0.2
    stratify: true
    random_state: 42
====
model:
  loader:
    name: "default_loader"
    source_uri: "recipes/sql/user_behavior_spine.sql.j2"
====
model:
  loader:
    source_uri: "file://data/local_file.parquet"
====
model:
  augmenter:
    type: "feature_store"
    features:
      - feature_namespace: "user_demographics"
        features: ["age", "gender", "country", "city"]
      - feature_namespace: "user_behavior"
        features: ["total_purchases", "avg_session_time", "last_login"]
====
model:
  hyperparameters:
    n_estimators: {type: "int", low: 50, high: 1000}
    max_depth: {type: "int", low: 3, high: 20}
    learning_rate: {type: "float", low: 0.01, high: 0.3, log: true}
    subsample: {type: "float", low: 0.5, high: 1.0}
hyperparameter_tuning:
  enabled: true
  n_trials: 100
  metric: "roc_auc"
  direction: "maximize"
====
model:
  class_path: "sklearn.multioutput.MultiOutputRegressor"
  hyperparameters:
    estimator:
      class_path: "xgboost.XGBRegressor"
      hyperparameters:
        n_estimators: {type: "int", low: 100, high: 500}
  data_interface:
    task_type: "regression"
    target_col: ["target1", "target2", "target3"]
====
model:
  preprocessor:
    name: "custom_preprocessor"
    params:
      categorical_features: ["category", "brand", "region"]
      categorical_strategy: "onehot"
      numerical_features: ["price", "rating", "reviews"]
      numerical_strategy: "standard"
      missing_strategy: "median"
      outlier_detection: true
      outlier_method: "iqr"
====
model:
  class_path: "sklearn.ensemble.VotingClassifier"
  hyperparameters:
    estimators:
      - name: "rf"
        estimator:
          class_path: "sklearn.ensemble.RandomForestClassifier"
          hyperparameters:
            n_estimators: {type: "int", low: 50, high: 200}
      - name: "xgb"
        estimator:
          class_path: "xgboost.XGBClassifier"
          hyperparameters:
            n_estimators: {type: "int", low: 50, high: 200}
    voting: "soft"
====
model:
  loader:
    source_uri: "SELECT * FROM large_table LIMIT 10000"
hyperparameter_tuning:
  n_trials: 10
====
model:
  hyperparameters:
    alpha: {type: "float", low: 0.01, high: 0.3}
hyperparameter_tuning:
  enabled: true
  n_trials: 100
  pruning:
    enabled: true
    algorithm: "MedianPruner"
    n_startup_trials: 5
    n_warmup_steps: 10
"""


# --- for editors, and for speed ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_texts()))
def test_the_json_schema_accepts_every_recipe(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(document.parse(_texts()[name]).data, recipe.json_schema())


@pytest.mark.parametrize(
    ("old", "new"), [("n_trials: 50", "n_trials: 0"), ("seed: 7", "sed: 7"), ("enabled: true, algorithm", "enabld: true, algorithm")]
)
def test_the_json_schema_refuses_mistakes_of_the_grammar(old: str, new: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document.parse(CHURN.replace(old, new)).data, recipe.json_schema())


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    """In a fresh interpreter; the bound on time is that of the commands that only look."""
    program = (
        "import sys, time; began = time.process_time()\n"
        "import recipeline.document, recipeline.recipe, recipeline.settings\n"
        "took = time.process_time() - began\n"
        "heavy = {'pandas', 'numpy', 'sklearn', 'mlflow', 'optuna', 'torch', 'matplotlib', 'fastapi', 'sqlalchemy'} & set(sys.modules)\n"
        "print(took, sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    took, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(took) < 0.6


def test_range_is_exported_with_its_marks() -> None:
    """`repr(MISSING)` is readable where a Range is printed."""
    assert repr(MISSING) == "MISSING"
    assert "default=MISSING" in repr(Range("int", (), "a", 1, 2))
