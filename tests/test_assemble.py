"""Recipe and configuration to components: every mistake at its line, then objects as a person would have built them."""

from __future__ import annotations

import logging
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from distributions import install, on_path
from recipeline import recipe as recipes
from recipeline import registry
from recipeline import settings as configuration
from recipeline.assemble import assemble, check
from recipeline.errors import MissingLibrary, RecipeError

FOREST = "sklearn.ensemble.RandomForestClassifier"
BAGGING = "sklearn.ensemble.BaggingClassifier"
TUNED = "hyperparameter_tuning: {enabled: true}"
CHURN = "{task_type: classification, target_col: churned}"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path for distributions that exist during one test."""
    folder = tmp_path / "site"
    folder.mkdir()
    with on_path(folder, monkeypatch) as found:
        yield found


@pytest.fixture
def configured(tmp_path):
    """Settings of a project folder with the given config/base.yaml."""

    def load(text="", environment="local", environ=None):
        config = tmp_path / "project" / "config"
        config.mkdir(parents=True, exist_ok=True)
        (config / "base.yaml").write_text(textwrap.dedent(text))
        for name in ("dev", "prod"):
            (config / f"{name}.yaml").write_text("{}\n")
        return configuration.load(project=config.parent, environment=environment, environ=environ or {})

    return load


def written(model="", rest="", *, class_path=FOREST, interface=CHURN, loader="source_uri: x.csv"):
    """A recipe with the given arguments of the model (YAML in flow style) and further sections."""
    return (
        f"name: t\nmodel:\n  class_path: {class_path}\n  hyperparameters: {model or '{}'}\n"
        f"  loader: {{name: default_loader, {loader}}}\n  data_interface: {interface}\n{textwrap.dedent(rest)}"
    )


def problems(text, settings, **options):
    return check(recipes.draft(text), settings, **options)


def only(text, settings):
    (problem,) = problems(text, settings)
    return problem


# --- mistakes ---


def test_a_sound_recipe_has_no_problem(configured):
    """The guide's smallest recipe, and the fast look at it."""
    assert problems(written("{n_estimators: 10}"), configured()) == []
    assert problems(written("{n_estimators: 10}"), configured(), fast=True) == []


def test_a_misspelt_argument_is_answered_as_promised(configured):
    """Word for word the example of the reference."""
    problem = only(written("{n_estimatorz: 3}"), configured())
    assert str(problem) == (
        "error[unknown-key] <recipe>:4:21: model.hyperparameters.n_estimatorz: "
        "RandomForestClassifier has no such argument; did you mean n_estimators?"
    )


def test_every_mistake_is_said_at_once_and_in_order(configured):
    """Seven mistakes of seven kinds: one list, sorted by line, each at its own place."""
    text = """\
    name: t
    modl_version: 3
    model:
      class_path: sklearn.ensemble.RandomForestClassifier
      hyperparameters:
        n_estimatorz: 10
        criterion: ginni
      loader: {name: defualt_loader, source_uri: x.csv}
      preprocessor: {name: default_preprocessor, params: {exclude_col: [a]}}
      data_interface: {task_type: classification, target_colum: churned}
    evaluation:
      metrics: [acuracy]
      validation: {method: train_test_split, test_sise: 0.2}
    """
    found = problems(textwrap.dedent(text), configured())
    assert [(p.line, p.suggestion) for p in found] == [
        (2, None), (6, "n_estimators"), (7, "gini"), (8, "default_loader"), (9, "exclude_cols"), (10, "target_col"), (12, "accuracy"),
        (13, "test_size"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "suggestion"),
    [
        ("{max_depth: abc}", None),
        ("{n_estimators: -5}", None),
        ("{n_estimators: 10.0}", None),
        ("{criterion: ginni}", "gini"),
        ("{bootstrap: maybe}", None),
        ("{max_features: {class_path: sklearn.svm.SVC}}", None),
    ],
)
def test_a_value_that_scikit_learn_refuses_is_found_before_training(configured, value, suggestion):
    """By scikit-learn's own constraints, with what it takes instead."""
    problem = only(written(value), configured())
    assert problem.slug in {"bad-value", "wrong-kind"}
    assert problem.suggestion == suggestion
    assert "it must be" in problem.hint


def test_both_ends_and_the_choices_of_a_range_are_checked(configured):
    """A search would have found out in the middle."""
    text = written(
        "{n_estimators: {type: int, low: -5, high: 10}, max_features: {type: float, low: 0.1, high: 1.5},"
        " criterion: {type: categorical, choices: [gini, x]}}",
        TUNED,
    )
    found = {problem.key[-2:] for problem in problems(text, configured())}
    assert found == {("n_estimators", "low"), ("max_features", "high"), ("choices", 1)}


def test_parts_of_ours_are_checked_by_their_annotations(site, configured):
    """A plugin's own types: a literal with its nearest word, a number, a list where a tuple is wanted."""
    text = """
    from typing import Literal
    class Model:
        '''A model.'''
        def __init__(self, mode: Literal["slow", "fast"] = "slow", steps: int = 3, shape: tuple[int, int] = (1, 2)):
            self.mode, self.steps, self.shape = mode, steps, shape
        def fit(self, X, y=None): return self
        def predict(self, X): return X
    """
    install(site, "acme", {"acme": text}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    found = problems(written("{mode: fats, steps: many, shape: [1, b]}", class_path="acme_model"), configured())
    assert [(p.key[-1], p.suggestion) for p in found] == [("mode", "fast"), ("steps", None), ("shape", None)]
    model = assemble(recipes.load(written("{mode: fast, shape: [3, 4]}", class_path="acme_model")), configured()).pipeline()[1]
    assert (model.mode, model.shape) == ("fast", (3, 4))


def test_a_required_argument_is_asked_for(configured):
    """VotingClassifier without estimators."""
    problem = only(written(class_path="sklearn.ensemble.VotingClassifier"), configured())
    assert (problem.slug, problem.key[-1]) == ("missing-key", "estimators")


@pytest.mark.parametrize("path", ["os.system", "builtins.eval", "sklearn.utils.os.system"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_refused_class_is_exit_4_wherever_it_stands(configured, path, fast):
    """As the model, and nested three deep; `--fast` refuses it too."""
    steps = f"{{steps: [{{name: a, estimator: {{class_path: {path}}}}}]}}"
    nested = f"{{estimator: {{class_path: sklearn.pipeline.Pipeline, params: {steps}}}}}"
    for text in (written(class_path=path), written(nested, class_path=BAGGING)):
        found = problems(text, configured(), fast=fast)
        assert [p.exit_code for p in found] == [4]
        assert RecipeError(found).code == 4


def test_a_recipe_cannot_widen_the_list_but_the_configuration_can(site, configured):
    """`security.allowed_namespaces` is the only door."""
    models = "from sklearn.svm import SVC\nclass Mine(SVC):\n    '''Mine.'''\n"
    install(site, "mine", {"my_project.models": models}, {})
    text = written(class_path="my_project.models.Mine")
    assert only(text, configured()).exit_code == 4
    assert problems(text, configured("security: {allowed_namespaces: [sklearn, my_project]}")) == []


def test_a_missing_library_alone_is_raised_as_such(configured, monkeypatch):
    """`pip install …` is the whole message; among other problems it stands as one of them."""
    monkeypatch.setattr(registry, "EXTRAS", {**registry.EXTRAS, "not_here": "spline"})
    settings = configured("security: {allowed_namespaces: [not_here, sklearn]}")
    with pytest.raises(MissingLibrary, match="pip install"):
        assemble(recipes.load(written(class_path="not_here.Model")), settings)
    with pytest.raises(RecipeError, match=r"(?s)missing-library.*unknown-metric"):
        assemble(recipes.load(written(class_path="not_here.Model", rest="evaluation: {metrics: [acuracy]}")), settings)


def test_the_interface_is_the_task_s_own(configured):
    """Unknown and wrong keys of data_interface, with the nearest."""
    found = problems(written(interface="{task_type: classification, target_col: churned, entity_colls: [a]}"), configured())
    assert [(p.slug, p.suggestion) for p in found] == [("unknown-key", "entity_cols")]
    problem = only(written(interface="{task_type: clasification, target_col: churned}"), configured())
    assert (problem.slug, problem.suggestion) == ("unknown-name", "classification")


@pytest.mark.parametrize(
    ("rest", "slug", "suggestion"),
    [
        ("evaluation: {metrics: [acuracy]}", "unknown-metric", "accuracy"),
        ("evaluation: {metrics: [rmse]}", "wrong-metric", None),
        ("evaluation: {metrics: [accuracy, accuracy_score]}", "duplicate-value", None),
    ],
)
def test_metrics_are_known_and_fit_the_task(configured, rest, slug, suggestion):
    """A misspelt one, one of another task, one under two names."""
    from recipeline.components.classification import Classification

    aliases = {alias for metric in Classification.metrics for alias in metric.aliases if metric.name == "accuracy"}
    text = rest.replace("accuracy_score", min(aliases)) if aliases else rest
    problem = only(written(rest=text), configured())
    assert (problem.slug, problem.suggestion) == (slug, suggestion)


def test_a_registered_metric_reaches_an_evaluator_that_takes_it(site, configured):
    """By the argument `registered_metrics`; an evaluator without it cannot report the metric, and that is a mistake."""
    text = """
    from recipeline.contracts import Evaluation, Metric
    def cost(actual, predicted, *, weight=None): return 1.0
    COST = Metric("cost", "minimize", "prediction", cost)
    class Open:
        '''Reports what it is given.'''
        def __init__(self, registered_metrics=()): self.measures = (Metric("own", "maximize", "prediction", cost), *registered_metrics)
        def judge(self, pipeline, part): return Evaluation({})
    class Closed(Open):
        '''Reports one thing.'''
        def __init__(self): super().__init__()
    """
    install(site, "acme", {"acme": text}, {"metric": {"cost": "acme:COST"}, "evaluator": {"open": "acme:Open", "closed": "acme:Closed"}})
    registry.refresh()
    settings = configured()
    taken = written(rest="evaluation: {metrics: [cost, own], evaluator: {name: open}}")
    assert [metric.name for metric in assemble(recipes.load(taken), settings).metrics] == ["cost", "own"]
    problem = only(taken.replace("name: open", "name: closed"), settings)
    assert (problem.slug, problem.key) == ("wrong-metric", ("evaluation", "metrics", 0))
    assert only(written(rest="evaluation: {metrics: [accuracy], evaluator: {name: open}}"), settings).slug == "wrong-metric"


def test_the_direction_must_be_the_metric_s(configured):
    """Minimising accuracy was never meant."""
    ranges = "{n_estimators: {type: int, low: 5, high: 10}}"
    text = written(ranges, "hyperparameter_tuning: {enabled: true, metric: accuracy, direction: minimize}")
    problem = only(text, configured())
    assert (problem.slug, problem.key, problem.suggestion) == ("wrong-direction", ("hyperparameter_tuning", "direction"), "maximize")
    assert problems(text.replace("minimize", "maximize"), configured()) == []


def test_keys_of_tuning_that_no_task_knows_are_unknown(configured):
    """Only a task with a model `Tuning` takes more."""
    text = written("{n_estimators: {type: int, low: 5, high: 10}}", "hyperparameter_tuning: {enabled: true, wombat: 3}")
    problem = only(text, configured())
    assert (problem.slug, problem.key[-1]) == ("unknown-key", "wombat")


def test_an_argument_in_recipe_and_configuration_is_an_error(site, configured):
    """Either alone is merged; what the configuration misspells is told with the configuration's file."""
    text = """
    class Model:
        '''A model.'''
        def __init__(self, address=None, timeout=1.0): self.address, self.timeout = address, timeout
        def fit(self, X, y=None): return self
        def predict(self, X): return X
    """
    install(site, "acme", {"acme": text}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    settings = configured("parts: {model: {acme_model: {address: 'http://x'}}}")
    assert only(written("{address: y}", class_path="acme_model"), settings).slug == "given-twice"
    model = assemble(recipes.load(written("{timeout: 2.5}", class_path="acme_model")), settings).pipeline()[1]
    assert (model.address, model.timeout) == ("http://x", 2.5)
    nested = written("{estimator: {class_path: acme_model}}", class_path=BAGGING)
    assert assemble(recipes.load(nested), settings).pipeline()[1].estimator.address == "http://x"
    problem = only(written(class_path="acme_model"), configured("parts: {model: {acme_model: {adress: x}}}"))
    assert (problem.suggestion, problem.file.endswith("base.yaml")) == ("address", True)


def test_what_belongs_to_the_place_stands_in_no_recipe_and_is_told_again_after_reading(site, configured):
    """`placed`: refused in a recipe, given by the configuration, and by `settle` to a part that was read; `check` knows the place."""
    text = """
    from recipeline.errors import Problem
    class Model:
        '''A model behind a server.'''
        placed = ("address",)
        def __init__(self, timeout=1.0, address=None, places=None): self.timeout, self.address, self.places = timeout, address, places
        def settle(self, address=None, places=None): self.address, self.places = address, places
        @classmethod
        def check(cls, params, interface, environment, *, places):
            found = [] if places.environment == environment and places.project.is_dir() else [Problem("lost", (), "no place")]
            return found + ([Problem("bad-address", ("address",), "no address")] if params.get("address") == "nowhere" else [])
        def fit(self, X, y=None): return self
        def predict(self, X): return X
    """
    install(site, "acme", {"acme": text}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    settings = configured("parts: {model: {acme_model: {address: 'http://x'}}}")
    for refused in (settings, configured()):
        problem = only(written("{address: 'http://evil'}", class_path="acme_model"), refused)
        assert (problem.slug, problem.line, problem.column) == ("not-in-recipe", 4, 21)
        assert "parts.model.acme_model" in problem.hint
    components = assemble(recipes.load(written("{timeout: 2.5}", class_path="acme_model")), settings)
    made = components.pipeline()[1]
    assert (made.address, made.timeout, made.places.environment) == ("http://x", 2.5, "local")
    read = type(made)(timeout=7.0)
    pipeline = SimpleNamespace(preprocessor=None, model=read)
    assert components.settle(pipeline) is pipeline
    assert (read.address, read.timeout, read.places.environment) == ("http://x", 7.0, "local")
    problem = only(written(class_path="acme_model"), configured("parts: {model: {acme_model: {address: nowhere}}}"))
    assert (problem.slug, problem.file.endswith("base.yaml")) == ("bad-address", True)


def test_an_unset_variable_is_an_error_of_the_recipe_that_needs_it(site, configured):
    """`${NAME}` in the configuration of a part, named with its key."""
    text = """
    class Aug:
        '''Brings nothing.'''
        def __init__(self, key=None): self.key = key
        def augment(self, frame, *, online): return frame
    """
    install(site, "acme", {"acme": text}, {"augmenter": {"acme_aug": "acme:Aug"}})
    registry.refresh()
    config = "parts: {augmenter: {acme_aug: {key: '${ACME_KEY}'}}}"
    text = written().replace("  loader:", "  augmenter: {type: acme_aug}\n  loader:")
    assert problems(written(), configured(config)) == []
    assert "ACME_KEY" in str(only(text, configured(config)))
    assert assemble(recipes.load(text), configured(config, environ={"ACME_KEY": "k"})).augmenter.key == "k"


def test_what_the_engine_supplies_no_recipe_may_write(configured):
    """`places` and `context_params` reach the loader all the same."""
    assert only(written(loader="source_uri: x.csv, params: {places: here}"), configured()).key[-1] == "places"
    components = assemble(recipes.load(written()), configured(), params={"day": "2024-01-01"})
    assert components.loader.context_params == {"day": "2024-01-01"}
    assert components.loader.places.project == configured().project


def test_local_refuses_the_feature_store_and_says_the_two_ways_out(configured):
    """Another APP_ENV, or its switch."""
    text = written().replace("  loader:", "  augmenter: {type: feature_store, features: []}\n  loader:")
    for fast in (True, False):
        refusal = next(p for p in problems(text, configured(), fast=fast) if p.slug == "not-in-local")
        assert "APP_ENV=dev" in refusal.hint
        assert "feature_store.enabled: true" in refusal.hint
    assert "not-in-local" not in {p.slug for p in problems(text, configured(environment="dev"))}
    assert "not-in-local" not in {p.slug for p in problems(text, configured("feature_store: {enabled: true}"))}


def test_a_part_s_own_check_is_asked_and_located(site, configured):
    """It sees plain arguments, ranges at their defaults; its keys become lines of the recipe, its exit code stays."""
    text = """
    from recipeline.errors import Problem
    class Model:
        '''A model.'''
        def __init__(self, batch=64, envs=8): pass
        def fit(self, X, y=None): return self
        def predict(self, X): return X
        @classmethod
        def check(cls, params, interface, environment):
            assert interface["target_col"] == "churned" and environment == "local"
            if params.get("envs", 8) * 4 < params["batch"]:
                return [Problem("bad-value", ("batch",), "the batch is larger than what is collected", at="value", exit_code=4)]
            return []
    """
    install(site, "acme", {"acme": text}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    problem = only(written("{batch: 64}", class_path="acme_model"), configured())
    assert (problem.key, problem.line, problem.exit_code) == (("model", "hyperparameters", "batch"), 4, 4)
    range_ = "{batch: {type: int, low: 16, high: 64, default: 32}}"
    assert problems(written(range_, TUNED, class_path="acme_model"), configured()) == []


def test_a_model_that_needs_the_context_is_refused_inside_a_foreign_one(site, configured):
    """VotingClassifier would not hand it on; alone, or inside a part that does, it is fine."""
    text = """
    class Inner:
        '''A model.'''
        def __init__(self, inner=None): self.inner = inner
        def fit(self, X, y=None, *, context): return self
        def predict(self, X): return X
    """
    install(site, "acme", {"acme": text}, {"model": {"inner": "acme:Inner"}})
    registry.refresh()
    settings = configured()
    nested = "{estimators: [{name: a, estimator: {class_path: inner}}]}"
    assert only(written(nested, class_path="sklearn.ensemble.VotingClassifier"), settings).slug == "context-lost"
    assert problems(written(class_path="inner"), settings) == []
    assert problems(written("{inner: {class_path: inner}}", class_path="inner"), settings) == []


def test_members_of_an_ensemble_must_predict_and_steps_must_transform(configured):
    """The wrong kind of class inside scikit-learn's compositions."""
    scaler, forest = "{class_path: sklearn.preprocessing.StandardScaler}", f"{{class_path: {FOREST}}}"
    voting = f"{{estimators: [{{name: a, estimator: {scaler}}}]}}"
    assert only(written(voting, class_path="sklearn.ensemble.VotingClassifier"), configured()).slug == "wrong-kind"
    steps = f"{{steps: [{{name: a, estimator: {forest}}}, {{name: b, estimator: {forest}}}]}}"
    assert only(written(steps, class_path="sklearn.pipeline.Pipeline"), configured()).slug == "wrong-kind"
    good = f"{{steps: [{{name: a, estimator: {scaler}}}, {{name: b, estimator: {forest}}}]}}"
    assert problems(written(good, class_path="sklearn.pipeline.Pipeline"), configured()) == []


def test_a_constructor_that_refuses_is_a_problem_at_its_arguments(site, configured):
    """Its own words, no traceback."""
    text = """
    class Model:
        '''A model.'''
        def __init__(self, a=1): raise ValueError("a and the moon do not go together")
        def fit(self, X, y=None): return self
        def predict(self, X): return X
    """
    install(site, "acme", {"acme": text}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    problem = only(written("{a: 2}", class_path="acme_model"), configured())
    assert "Model refuses its arguments: a and the moon do not go together" in str(problem)
    assert problem.line == 4


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_boosters_know_their_aliases_and_no_typos(configured, library):
    """`eta` is an argument, `n_estimatorz` is not, one argument under two names is a mistake."""
    pytest.importorskip(library)
    name = {"xgboost": "XGBClassifier", "lightgbm": "LGBMClassifier", "catboost": "CatBoostClassifier"}[library]
    path, settings = f"{library}.{name}", configured()
    assert problems(written("{eta: 0.1, n_estimators: 5}", class_path=path), settings) == []
    assert only(written("{n_estimatorz: 5}", class_path=path), settings).suggestion == "n_estimators"
    assert only(written("{eta: 0.1, learning_rate: 0.2}", class_path=path), settings).slug == "duplicate-key"


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosters_are_checked_by_their_annotations(configured, library):
    """They declare their types; a word for a number is found before training."""
    pytest.importorskip(library)
    name = {"xgboost": "XGBClassifier", "lightgbm": "LGBMClassifier"}[library]
    problem = only(written("{max_depth: deep}", class_path=f"{library}.{name}"), configured())
    assert (problem.slug, problem.key[-1]) == ("bad-value", "max_depth")


def test_a_warm_up_that_never_ends_is_a_warning(configured, caplog):
    """The guide's own block has ten steps of warm-up and five folds."""
    rest = "hyperparameter_tuning: {{enabled: true, pruning: {{enabled: true, algorithm: MedianPruner, n_warmup_steps: {}}}}}"
    for steps, warned in ((10, True), (4, True), (3, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "recipeline"):
            assemble(recipes.load(written("{n_estimators: {type: int, low: 5, high: 10}}", rest.format(steps))), configured())
        assert ("n_warmup_steps" in caplog.text) is warned


# --- objects ---


def test_ranges_take_values_then_defaults_then_the_constructor_s(configured):
    """And each call gives fresh, unfitted objects."""
    text = written(
        "{n_estimators: {type: int, low: 5, high: 10}, max_depth: {type: int, low: 2, high: 9, default: 4}}",
        TUNED,
    )
    components = assemble(recipes.load(text), configured())
    assert [found.name for found in components.space] == ["n_estimators", "max_depth"]
    preprocessor, model = components.pipeline()
    assert (model.n_estimators, model.max_depth) == (100, 4)
    again = components.pipeline({"n_estimators": 7, "max_depth": 3})
    assert (again[1].n_estimators, again[1].max_depth) == (7, 3)
    assert again[0] is not preprocessor
    assert again[1] is not model


def test_the_values_of_trial_0_have_names(configured):
    """Given defaults, the constructor's own, the first of parts that must be chosen with its own; those of other choices are not there."""
    svc = "{class_path: sklearn.svm.SVC, params: {C: {type: float, low: 0.1, high: 10}}}"
    tree = "{class_path: sklearn.tree.DecisionTreeClassifier, params: {max_depth: {type: int, low: 2, high: 5}}}"
    forest = f"{{class_path: {FOREST}, params: {{n_estimators: {{type: int, low: 5, high: 9, default: 6}}}}}}"
    text = written(
        f"{{final_estimator: {{type: categorical, choices: [{svc}, {tree}]}}, estimators: [{{name: rf, estimator: {forest}}}],"
        " passthrough: {type: categorical, choices: [true, false]}}",
        TUNED,
        class_path="sklearn.ensemble.StackingClassifier",
    )
    components = assemble(recipes.load(text), configured())
    assert components.defaults() == {"final_estimator": "SVC", "final_estimator.SVC.C": 1.0, "rf.n_estimators": 6, "passthrough": False}
    by_name, by_default = components.pipeline(components.defaults())[1], components.pipeline()[1]
    assert repr(by_name) == repr(by_default)


def test_tuning_needs_both_switches(configured, caplog):
    """Off in the configuration: no space, defaults, and a line that says so."""
    text = written("{n_estimators: {type: int, low: 5, high: 10}}", TUNED)
    components = assemble(recipes.load(text), configured())
    assert components.tuned_metric.name == "accuracy"
    with caplog.at_level(logging.WARNING, "recipeline"):
        components = assemble(recipes.load(text), configured("hyperparameter_tuning: {enabled: false}"))
    assert (components.space, components.tuned_metric) == ((), None)
    assert "switched off by the configuration" in caplog.text


def test_a_choice_between_model_families_brings_its_own_ranges(configured):
    """Conditional search: the chosen part is built, with its own values."""
    svc = "{class_path: sklearn.svm.SVC, params: {C: {type: float, low: 0.1, high: 10}}}"
    tree = "{class_path: sklearn.tree.DecisionTreeClassifier}"
    text = written(f"{{estimator: {{type: categorical, choices: [{svc}, {tree}]}}}}", TUNED, class_path=BAGGING)
    components = assemble(recipes.load(text), configured())
    assert type(components.pipeline({"estimator": "DecisionTreeClassifier"})[1].estimator).__name__ == "DecisionTreeClassifier"
    svc = components.pipeline({"estimator": "SVC", "estimator.SVC.C": 3.0})[1].estimator
    assert (type(svc).__name__, svc.C, svc.random_state) == ("SVC", 3.0, 42)


def test_lists_of_named_estimators_become_scikit_learn_s_tuples(configured):
    """Voting, Stacking with a cross-validator, Pipeline, and ColumnTransformer with its triples: all fit and predict."""
    text = written(
        """
        {
          estimators: [
            {name: rf, estimator: {class_path: sklearn.ensemble.RandomForestClassifier, hyperparameters: {n_estimators: 5}}},
            {name: lr, estimator: {class_path: sklearn.pipeline.Pipeline, params: {steps: [
              {name: columns, estimator: {class_path: sklearn.compose.ColumnTransformer, params: {
                transformers: [{name: scaled, columns: [0, 1],
                  transformer: {class_path: sklearn.preprocessing.MinMaxScaler, params: {feature_range: [0, 2]}}}],
                remainder: passthrough}}},
              {name: model, estimator: {class_path: sklearn.linear_model.LogisticRegression}}]}}}
          ],
          cv: {class_path: sklearn.model_selection.StratifiedKFold, params: {n_splits: 3}}
        }
        """,
        class_path="sklearn.ensemble.StackingClassifier",
    )
    _, model = assemble(recipes.load(text), configured()).pipeline()
    assert [name for name, _ in model.estimators] == ["rf", "lr"]
    columns = model.estimators[1][1].steps[0][1]
    assert columns.transformers[0][0] == "scaled"
    assert columns.transformers[0][1].feature_range == (0, 2)
    assert columns.transformers[0][2] == [0, 1]
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    assert model.fit(X, y).predict(X).shape == (60,)


def test_the_seed_fills_every_unset_random_state(configured):
    """Nested ones too; a given one stays, a splitter that does not shuffle gets none, the split may have its own."""
    text = written(
        "{estimator: {class_path: sklearn.tree.DecisionTreeClassifier}, random_state: 5}",
        "seed: 11\nevaluation: {validation: {method: train_test_split, random_state: 3}}",
        class_path=BAGGING,
    )
    components = assemble(recipes.load(text), configured())
    _, model = components.pipeline()
    assert (model.random_state, model.estimator.random_state, components.splitter.random_state) == (5, 11, 3)
    plain = assemble(recipes.load(written(rest="seed: 11")), configured())
    assert (plain.pipeline()[1].random_state, plain.splitter.random_state) == (11, 11)


@pytest.mark.parametrize(
    ("path", "given", "own"),
    [
        ("xgboost.XGBClassifier", "seed", "random_state"),
        ("lightgbm.LGBMClassifier", "random_seed", "random_state"),
        ("catboost.CatBoostClassifier", "random_state", "random_seed"),
    ],
)
def test_a_seed_under_its_alias_is_a_seed(configured, path, given, own):
    """Two seeds would be one too many; it arrives under the constructor's own word."""
    pytest.importorskip(path.partition(".")[0])
    with_seed = assemble(recipes.load(written(f"{{{given}: 3}}", class_path=path)), configured()).pipeline()[1]
    without = assemble(recipes.load(written(class_path=path)), configured()).pipeline()[1]
    assert with_seed.get_params()[own] == 3
    assert with_seed.get_params().get(given) is None
    assert without.get_params()["random_state"] == 42


def test_a_literal_mapping_arrives_untouched(configured):
    """Whatever it looks like."""
    text = written("{class_weight: {literal: {0: 1.0, 1: 2.5}}}")
    assert assemble(recipes.load(text), configured()).pipeline()[1].class_weight == {0: 1.0, 1: 2.5}


def test_a_configured_adapter_is_built_when_a_source_needs_it(site, configured):
    """Registered by a plugin or written as the guide shows; an unset password is no error before."""
    text = """
    class Custom:
        '''Reads.'''
        def __init__(self, settings, **kwargs): self.settings, self.kwargs = settings, kwargs
        def read(self, query, params=None): return (query, dict(self.settings), self.kwargs)
    """
    install(site, "acme", {"acme": text}, {"adapter": {"CustomAdapter": "acme:Custom"}})
    registry.refresh()
    config = """
    data_adapters:
      adapters:
        sql: {class_name: SqlAdapter, config: {connection_uri: 'postgresql://u:${NOT_SET}@h/db'}}
        custom: {class_name: CustomAdapter, config: {token: abc}}
    sources: {customers: {adapter: custom, query: all of them}}
    """
    components = assemble(recipes.load(written(loader="source_uri: 'source://customers'")), configured(config))
    assert components.loader.load() == ("all of them", {"token": "abc"}, {"token": "abc"})
    with pytest.raises(RecipeError, match="NOT_SET"):
        components.loader.places.adapter("sql")


def test_the_artifact_finds_classes_through_the_same_list(configured):
    """`Components.find` takes the path that part.json has, and refuses what a recipe could not name."""
    components = assemble(recipes.load(written()), configured())
    assert components.find("sklearn.ensemble._forest.RandomForestClassifier").__name__ == "RandomForestClassifier"
    with pytest.raises(RecipeError) as caught:
        components.find("os.system")
    assert caught.value.code == 4
