"""Names, dotted paths, and what may not be named."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from distributions import install, on_path
from recipeline import registry, signatures
from recipeline.errors import MissingLibrary, RecipeError, UsageError
from recipeline.registry import AllowList, find
from recipeline.signatures import signature

ALLOWED = AllowList.of(["sklearn", "xgboost", "lightgbm", "catboost", "causalml", "gymnasium"])


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path for distributions that exist during one test."""
    with on_path(tmp_path, monkeypatch) as folder:
        yield folder


def problem_of(call, *arguments):
    with pytest.raises(RecipeError) as caught:
        call(*arguments)
    (problem,) = caught.value.problems
    return problem


MODEL = """
class Model:
    '''A model.'''
    def fit(self, X, y=None): return self
    def predict(self, X): return X
"""


# --- names ---


def test_a_registered_name_leads_to_its_class_and_a_built_in_is_no_exception(site):
    """A guest stands in the same table as the built-in loader."""
    install(site, "acme", {"acme": MODEL}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    assert find("model", "acme_model", ALLOWED).__name__ == "Model"
    assert {entry.distribution for entry in registry.entries()} >= {"acme", "recipeline"}


def test_nothing_is_imported_before_a_name_is_asked_for(site):
    """The table is text."""
    install(site, "acme", {"acme": MODEL}, {"model": {"acme_model": "acme:Model"}})
    registry.refresh()
    assert registry.check("model", "acme_model", ALLOWED) is None
    assert "acme" not in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest_and_all_others():
    """catalogue's manners."""
    problem = problem_of(find, "loader", "defalt_loader", ALLOWED)
    assert (problem.slug, problem.suggestion, problem.exit_code) == ("unknown-name", "default_loader", 3)
    assert "registered: default_loader" in problem.hint


def test_a_class_name_without_its_module_is_answered_with_the_whole_path():
    """RandomForestClassifier alone is what people write first."""
    assert problem_of(find, "model", "RandomForestClassifier", ALLOWED).suggestion == "sklearn.ensemble.RandomForestClassifier"


def test_one_name_from_two_distributions_is_an_error_only_for_recipes_that_use_it(site):
    """Both are named; a third name of theirs works."""
    install(site, "acme", {"acme": MODEL}, {"model": {"twice": "acme:Model", "once": "acme:Model"}})
    install(site, "zenith", {"zenith": MODEL}, {"model": {"twice": "zenith:Model"}})
    registry.refresh()
    problem = problem_of(find, "model", "twice", ALLOWED)
    assert "acme and zenith" in problem.message
    assert find("model", "once", ALLOWED).__module__ == "acme"


def test_a_nested_name_in_two_roles_asks_for_role_and_name(site):
    """`role:name` then decides, and at its own place the plain name still does."""
    install(site, "acme", {"acme": MODEL + "\nclass Gate: pass\n"}, {"model": {"both": "acme:Model"}, "part": {"both": "acme:Gate"}})
    registry.refresh()
    problem = problem_of(find, "part", "both", ALLOWED)
    assert problem.slug == "ambiguous-name"
    assert "part:both or model:both" in problem.hint
    assert find("part", "model:both", ALLOWED).__name__ == "Model"
    assert find("part", "part:both", ALLOWED).__name__ == "Gate"
    assert find("model", "both", ALLOWED).__name__ == "Model"


def test_a_nested_name_is_looked_up_among_parts_models_and_the_rest(site):
    """A gate that is only ever nested, and a model inside another."""
    install(site, "acme", {"acme": MODEL + "\nclass Gate: pass\n"}, {"model": {"inner": "acme:Model"}, "part": {"gate": "acme:Gate"}})
    registry.refresh()
    assert find("part", "inner", ALLOWED).__name__ == "Model"
    assert find("part", "gate", ALLOWED).__name__ == "Gate"
    assert problem_of(find, "model", "gate", ALLOWED).slug == "unknown-name"


@pytest.mark.parametrize(
    ("module", "target", "cause"),
    [
        ("raise RuntimeError('no such luck')", "broken:Model", "no such luck"),
        ("import does_not_exist_anywhere", "broken:Model", "does_not_exist_anywhere"),
        ("x = 1", "broken:Model", "no Model"),
        ("Model = 3", "broken:Model", "not a class"),
        ("raise SystemExit(0)", "broken:Model", "SystemExit"),
        ("def broken(:", "broken:Model", "SyntaxError"),
    ],
)
def test_a_broken_plugin_only_breaks_recipes_that_use_it(site, module, target, cause):
    """Distribution and cause are named; other names go on working."""
    install(site, "acme-broken", {"broken": module}, {"model": {"wreck": target}})
    install(site, "acme", {"acme": MODEL}, {"model": {"sound": "acme:Model"}})
    registry.refresh()
    problem = problem_of(find, "model", "wreck", ALLOWED)
    assert problem.slug == "broken-plugin"
    assert "acme-broken" in problem.message
    assert cause in problem.message
    assert str(site) not in str(problem)
    assert find("model", "sound", ALLOWED).__name__ == "Model"
    assert "wreck" in {entry.name for entry in registry.entries("model")}


def test_a_missing_optional_library_names_the_extra(site, monkeypatch):
    """By a plugin's import as well as by a class_path."""
    monkeypatch.setattr(registry, "EXTRAS", {**registry.EXTRAS, "library_that_is_not_here": "spline"})
    install(site, "acme", {"acme": "import library_that_is_not_here.nn"}, {"model": {"lstm": "acme:Model"}})
    registry.refresh()
    with pytest.raises(MissingLibrary, match=r"pip install 'recipeline\[spline\]'") as caught:
        find("model", "lstm", ALLOWED)
    assert caught.value.code == 3
    with pytest.raises(MissingLibrary, match="library_that_is_not_here is not installed"):
        find("model", "library_that_is_not_here.Model", AllowList(frozenset({"library_that_is_not_here"})))


def test_a_missing_system_library_names_it_and_the_extra(site, monkeypatch):
    """As LightGBM fails where libgomp is not installed: OSError from ctypes, inside its own code."""
    text = "import ctypes\nctypes.CDLL('/opt/secret/place/libgomp-missing.so.1')\n"
    install(site, "boost", {"boostlike": text}, {})
    monkeypatch.setattr(registry, "EXTRAS", {**registry.EXTRAS, "boostlike": "boosting"})
    with pytest.raises(MissingLibrary, match=r"recipeline\[boosting\]") as caught:
        find("model", "boostlike.Model", AllowList(frozenset({"boostlike"})))
    assert "libgomp-missing.so.1" in str(caught.value)
    assert "/opt/secret" not in str(caught.value)


def test_a_program_registers_and_forgets():
    """`register` needs no distribution; the same cell of a notebook may run twice; wrong use is told at once."""

    class Adapter:
        """Reads."""

        def read(self, query, params=None):
            return None

    registry.register("adapter", "mine", Adapter)
    registry.register("adapter", "mine", Adapter)
    try:
        assert find("adapter", "mine", ALLOWED) is Adapter
    finally:
        registry.unregister("adapter", "mine")
    assert problem_of(find, "adapter", "mine", ALLOWED).slug == "unknown-name"
    for role, name, made in [("adaptor", "x", Adapter), ("adapter", "a:b", Adapter), ("adapter", "x", Adapter())]:
        with pytest.raises(UsageError):
            registry.register(role, name, made)


# --- dotted paths ---


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("sklearn.ensemble.RandomForestClasifier", "sklearn.ensemble.RandomForestClassifier"),
        ("sklearn.ensembel.RandomForestClassifier", "sklearn.ensemble.RandomForestClassifier"),
        ("sklearn.linear_model.RandomForestClassifier", "sklearn.ensemble.RandomForestClassifier"),
        ("sklearn.linear_model.Rige", "sklearn.linear_model.Ridge"),
        ("sklearn.linearmodel.Ridge", "sklearn.linear_model.Ridge"),
    ],
)
def test_a_missing_class_is_answered_with_the_nearest(path, suggestion):
    """The nearest class of the module, or the same class where it really is."""
    problem = problem_of(find, "model", path, ALLOWED)
    assert (problem.slug, problem.suggestion, problem.exit_code) == ("unknown-class", suggestion, 3)


@pytest.mark.parametrize(
    "path", ["sklearn.ensemble", "sklearn.base.clone", "sklearn.preprocessing.StandardScaler", "sklearn.metrics.accuracy_score"]
)
def test_the_wrong_kind_of_thing_is_a_mistake_of_the_recipe(path):
    """A module, functions, and a class that cannot predict."""
    assert problem_of(find, "model", path, ALLOWED).slug == "wrong-kind"


@pytest.mark.parametrize("path", ["a b", "", "sklearn..svm.SVC", ".SVC", "sklearn.1.x", "sklearn.class.x", "SVC;import os", "nul\0.x"])
def test_what_is_no_path_at_all_is_a_mistake_of_the_recipe(path):
    """Nothing of it reaches the import system."""
    assert problem_of(find, "model", path, ALLOWED).exit_code == 3


# --- what is refused ---

GADGETS = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "importlib.import_module",
    "pickle.Unpickler",
    "sklearn.utils.os.system",
    "sklearn.utils.subprocess.Popen",
    "sklearn.externals._arff.ArffDecoder",
    "sklearn.__builtins__.eval",
    "sklearn.base.BaseEstimator.__init__.__globals__",
    "sklearn.utils.parallel.warnings.catch_warnings",
    "sklearn.utils.validation.sp.sparse.csr_matrix",
    "sklearnx.ensemble.RandomForestClassifier",
    "sklearn_evil.Model",
    "recipeline.registry.importlib.import_module",
    "recipeline.registry.Path",
    "recipeline.contracts.inspect.Signature",
]


@pytest.mark.parametrize("path", GADGETS)
@pytest.mark.parametrize("role", ["model", "part", "loader"])
def test_a_gadget_is_refused_at_every_place(path, role):
    """Exit code 4, whether the path is foreign or only leads out of an allowed package."""
    problem = problem_of(find, role, path, ALLOWED)
    assert (problem.slug, problem.exit_code) == ("refused", 4)


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "sklearn.utils.parallel.warnings.catch_warnings", "recipeline.registry.Path"]
)
def test_without_the_guard_the_gadgets_would_work(path):
    """The positive control: plain resolution of the same paths gives something callable."""
    assert callable(pkgutil.resolve_name(path))


def test_a_foreign_module_is_refused_before_it_is_imported(site):
    """It would leave a trace; so it does when it is allowed."""
    install(site, "trace", {"tracing": f"open({str(site / 'trace')!r}, 'w').close()\n{MODEL}"}, {})
    assert problem_of(find, "model", "tracing.Model", ALLOWED).exit_code == 4
    assert not (site / "trace").exists()
    assert find("model", "tracing.Model", AllowList(frozenset({"tracing"}))).__name__ == "Model"
    assert (site / "trace").exists()


@pytest.mark.parametrize("name", ["runner.system", "Popen", "run", "Chain", "nested.Inner"])
def test_a_re_export_is_judged_by_where_it_was_defined(site, name):
    """An allowed package that imports dangerous things under harmless names does not lend them its permission."""
    text = """
    import os as runner
    import subprocess as nested
    from subprocess import Popen
    from collections import ChainMap as Chain
    run = runner.system
    nested.Inner = nested.Popen
    """
    install(site, "gadget", {"gadget": text}, {})
    allow = AllowList(frozenset({"gadget"}))
    assert callable(pkgutil.resolve_name(f"gadget.{name}"))
    problem = problem_of(find, "part", f"gadget.{name}", allow)
    assert problem.exit_code == 4
    assert "really" in problem.message
    del sys.modules["subprocess"].Inner  # type: ignore[attr-defined]


def test_an_entry_point_into_the_standard_library_does_not_allow_the_standard_library(site):
    """The packages of installed plugins are allowed; `os` is not a plugin's package."""
    install(site, "acme", {"acme.deep": MODEL}, {"model": {"evil": "os:system", "deep": "acme.deep:Model"}})
    registry.refresh()
    allow = AllowList.of(["sklearn"])
    assert problem_of(find, "model", "os.system", allow).exit_code == 4
    assert find("model", "acme.deep.Model", allow).__name__ == "Model"
    assert problem_of(find, "model", "evil", allow).slug == "broken-plugin"


def test_part_of_a_package_may_be_allowed_alone(site):
    """`project.models` does not open `project.secrets`."""
    install(site, "project", {"project.models": MODEL, "project.secrets": MODEL}, {})
    allow = AllowList(frozenset({"project.models"}))
    assert find("model", "project.models.Model", allow).__name__ == "Model"
    assert problem_of(find, "model", "project.secrets.Model", allow).exit_code == 4
    assert problem_of(find, "model", "project.models_too.Model", allow).exit_code == 4


# --- signatures ---


def test_a_signature_tells_names_required_and_defaults():
    """By `__init__` where that tells everything."""
    from sklearn.ensemble import RandomForestClassifier, VotingClassifier

    forest = signature(RandomForestClassifier)
    assert forest.defaults["n_estimators"] == 100
    assert not forest.accepts("n_estimatorz")
    assert signature(VotingClassifier).required == ("estimators",)


def test_an_open_constructor_accepts_any_name():
    """`**kwargs` of unknown use."""

    class Open:
        def __init__(self, known, **rest):
            self.known, self.rest = known, rest

    found = signature(Open)
    assert (found.open, found.required, found.accepts("whatever")) == (True, ("known",), True)


@pytest.mark.parametrize(
    ("library", "path", "alias", "name"),
    [
        ("lightgbm", "lightgbm.LGBMClassifier", "lambda_l1", "reg_alpha"),
        ("lightgbm", "lightgbm.LGBMRegressor", "num_boost_round", "n_estimators"),
        ("xgboost", "xgboost.XGBClassifier", "eta", "learning_rate"),
        ("xgboost", "xgboost.XGBRegressor", "nthread", "n_jobs"),
        ("catboost", "catboost.CatBoostClassifier", "eta", "learning_rate"),
    ],
)
def test_documented_aliases_of_boosters_are_known_and_typos_are_not(library, path, alias, name):
    """`get_params` alone knows none of the first two libraries' aliases."""
    pytest.importorskip(library)
    found = signature(find("model", path, ALLOWED))
    assert found.accepts(alias)
    assert found.meaning(alias) == name
    assert found.accepts("max_depth")
    assert not found.accepts("n_estimatorz")
    assert not found.open


def test_the_table_of_lightgbm_knows_every_training_parameter_of_the_library():
    """The library can list its own aliases; what we leave out reads or writes files, names machines or steers its command line."""
    basic = pytest.importorskip("lightgbm.basic")
    theirs = basic._ConfigAliases._get_all_param_aliases()
    ours = {alias: name for name, aliases in signatures._LIGHTGBM.items() for alias in (name, *aliases)}
    left_out = {name for name in theirs if name not in ours}
    unsafe = ("machine", "filename", "input_", "output_", "predict", "save", "convert_", "column", "config", "data", "valid", "header",
              "task", "port", "time_out", "two_round", "pre_partition", "precise_float", "metric_freq", "provide", "snapshot",
              "device_id_list", "importance")  # fmt: skip
    assert [name for name in sorted(left_out) if not any(word in name for word in unsafe)] == []
    for name, aliases in theirs.items():
        if name in ours:
            assert {ours[alias] for alias in aliases if alias in ours} == {ours[name]}


# --- cost ---


def test_looking_at_names_loads_no_heavy_library():
    """A fresh interpreter reads the table and judges paths without scikit-learn, pandas or numpy."""
    program = """
    import sys
    from recipeline.registry import AllowList, check, entries
    allow = AllowList.of(["sklearn"])
    assert entries("loader") and check("model", "sklearn.svm.SVC", allow) is None and check("model", "os.system", allow)
    heavy = {"pandas", "numpy", "sklearn", "mlflow", "optuna", "torch", "pydantic"} & set(sys.modules)
    assert not heavy, heavy
    """
    source = Path(registry.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
