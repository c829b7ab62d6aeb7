"""Names that a recipe, a configuration or an artifact must not be able to use: none is imported, none is run.

Every gadget is tried as text at every place where a class can be named. The trap is a package whose import and whose class both
leave a file behind; the positive control is that the same names, resolved without the guard, do what they say.
"""

from __future__ import annotations

import importlib.metadata
import json
import pkgutil
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import distributions
import recipeline
from recipeline import artifact, registry, settings
from recipeline.errors import RecipelineError
from recipeline.recipe import load as load_recipe
from recipeline.registry import AllowList, find

pytestmark = pytest.mark.xdist_group("gadgets")

ALLOWED = AllowList.of(settings.NAMESPACES)

# --- names ---------------------------------------------------------------------------------------------------------------

FOREIGN = """
os.system os.execv os.popen posix.system pty.spawn builtins.eval builtins.exec builtins.__import__ builtins.open subprocess.Popen
subprocess.run subprocess.check_output importlib.import_module importlib.util.module_from_spec runpy.run_path runpy.run_module
code.InteractiveInterpreter codeop.compile_command pickle.loads pickle.Unpickler marshal.loads shelve.open ctypes.CDLL socket.socket
shutil.rmtree webbrowser.open antigravity.geohash functools.partial functools.reduce operator.attrgetter operator.methodcaller
types.FunctionType types.CodeType pathlib.Path tempfile.NamedTemporaryFile io.FileIO logging.FileHandler urllib.request.urlopen
http.server.HTTPServer multiprocessing.Process threading.Thread sqlite3.connect zipfile.ZipFile timeit.Timer cProfile.Profile
numpy.load numpy.memmap pandas.read_pickle joblib.load joblib.Memory skops.io.load mlflow.pyfunc.load_model cloudpickle.loads
yaml.UnsafeLoader jinja2.Template sqlalchemy.create_engine setuptools.Extension pip.main
""".split()  # noqa: SIM905  # a table is read more easily than sixty quoted lines
"""What is nobody's model: refused as text, before anything is imported."""

LED_OUT = """
sklearn.utils.os.system sklearn.datasets._base.os.system sklearn.utils._testing.os.system sklearn.utils.subprocess.Popen
sklearn.utils.validation.np.memmap sklearn.utils.validation.np.load sklearn.base.np.ctypeslib.load_library
sklearn.utils.parallel.warnings.catch_warnings sklearn.utils.validation.sp.sparse.csr_matrix sklearn.utils.validation.joblib.Parallel
sklearn.datasets._openml.urlopen sklearn.datasets._base.urlretrieve sklearn.ensemble._forest.threading.Lock sklearn.base.copy.copy
sklearn.externals._arff.ArffDecoder sklearn.utils._testing.TempMemmap
sklearn.__builtins__.eval sklearn.__loader__ sklearn.__spec__.loader sklearn.base.__dict__ sklearn.base.BaseEstimator.__class__
sklearn.base.BaseEstimator.__mro__ sklearn.base.BaseEstimator.__subclasses__ sklearn.base.BaseEstimator.__init__.__globals__
sklearn.linear_model.LogisticRegression.fit.__globals__ sklearn.linear_model.LogisticRegression.__reduce__
recipeline.registry.importlib.import_module recipeline.registry.Path recipeline.contracts.inspect.Signature recipeline.stores.files.Path
recipeline.stores.sql.SqlAdapter recipeline.artifact.Pipeline recipeline.components.regression.np.memmap recipeline.timeseries.grid.np.load
recipeline.components.evaluators.np.memmap recipeline.cli.subprocess.Popen
xgboost.core.os.system xgboost.core.ctypes.CDLL xgboost.sklearn.json.JSONDecoder xgboost.callback.os.system
xgboost.collective.ctypes.CDLL
lightgbm.basic.ctypes.CDLL lightgbm.basic.subprocess.Popen lightgbm.basic.Path lightgbm.engine.json.JSONDecoder
lightgbm.basic.NamedTemporaryFile catboost.core.os.system catboost.core.json.JSONDecoder
""".split()  # noqa: SIM905
"""What begins like an allowed package and leads out of it, or into its insides."""

LOOK_ALIKE = ["sk1earn.linear_model.Ridge", "skl\u0435arn.linear_model.Ridge", "sklearn_evil.Model", "sklearnx.svm.SVC",
              "SKLEARN.svm.SVC", "xgboost2.XGBClassifier", "lightgbm_.LGBMClassifier", "sklearn\u200b.svm.SVC",
              "recipeline_.Model"]  # fmt: skip
"""What a reader takes for an allowed package: e in Cyrillic, l as 1, a name made longer."""

NO_PATH = ["os:system", "model:os.system", "sklearn:os.system", "..os.system", "os..system", "os.system()", "os.system;x", "os.system\n",
           " os.system",            "import os", "__import__('os').system", "os/system", "file:///bin/sh",
           "\uff4f\uff53.system"]  # fmt: skip
"""What is not even a dotted path of plain names; Python would take the last one for `os`."""

FUNCTIONS = ["sklearn.base.clone", "sklearn.datasets.fetch_openml", "sklearn.utils.murmurhash3_32", "sklearn.metrics.accuracy_score",
             "xgboost.train", "lightgbm.train", "sklearn.show_versions", "sklearn.linear_model.LogisticRegression.fit"]  # fmt: skip
"""Functions are called by nobody: only classes are parts."""


def test_there_are_enough_of_them() -> None:
    everything = [*FOREIGN, *LED_OUT, *LOOK_ALIKE, *NO_PATH, *FUNCTIONS]
    assert len(set(everything)) == len(everything) > 100


@pytest.mark.parametrize("role", ["model", "preprocessor", "loader", "augmenter", "evaluator", "splitter", "adapter", "part"])
@pytest.mark.parametrize("kind", ["foreign", "led out", "look-alike", "no path", "function"])
def test_no_gadget_is_found_at_any_place(kind: str, role: str) -> None:
    """Exit 4 for what is outside the list, 3 for what names nothing; what was not imported before is not imported now."""
    names = {"foreign": FOREIGN, "led out": LED_OUT, "look-alike": LOOK_ALIKE, "no path": NO_PATH, "function": FUNCTIONS}[kind]
    for name in names:
        before = set(sys.modules)
        with pytest.raises(RecipelineError) as caught:
            pytest.fail(f"{name} was found: {find(role, name, ALLOWED)}")
        codes = {"foreign": {4}, "look-alike": {3, 4}, "no path": {3, 4}, "function": {3}, "led out": {4}}[kind]
        if kind == "led out" and name.partition(".")[0] not in {"sklearn", "recipeline"} and caught.value.slug == "missing-library":
            continue  # it is not installed
        assert caught.value.code in codes, (name, str(caught.value))
        if kind != "led out" and kind != "function":
            assert set(sys.modules) == before, name


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "pickle.loads", "joblib.Memory", "numpy.memmap", "sklearn.utils.validation.np.memmap",
             "sklearn.ensemble._forest.threading.Lock", "sklearn.utils.parallel.warnings.catch_warnings", "recipeline.registry.Path",
             "recipeline.stores.sql.SqlAdapter", "sklearn.datasets._openml.urlopen", "sklearn.linear_model.LogisticRegression.__reduce__"],
)  # fmt: skip
def test_without_the_guard_the_names_would_work(name: str) -> None:
    """The positive control: Python finds something to call behind each of them."""
    assert callable(pkgutil.resolve_name(name))


# --- the trap: places in recipes, configurations and artifacts -----------------------------------------------------------------

TRAP = """
from pathlib import Path
Path({trace!r}).write_text("imported")
class Trap:
    def __init__(self, *values, **words):
        Path({trace!r}).write_text("made")
    def fit(self, X, y=None, **more): return self
    def predict(self, X): return X
    def transform(self, X): return X
    def load(self): return None
    def read(self, query, params=None): return None
    def judge(self, pipeline, part): return None
    def augment(self, frame, *, online): return frame
    def split(self, selected, interface): return None
def spring(*values, **words):
    Path({trace!r}).write_text("called")
"""

RECIPE = """\
name: good
model:
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters: {C: 0.5}
  loader: {name: default_loader, source_uri: rows.csv}
  augmenter: {name: pass_through}
  preprocessor: {name: default_preprocessor}
  data_interface: {task_type: classification, target_col: y}
evaluation:
  metrics: [accuracy]
  validation: {method: train_test_split, test_size: 0.25}
"""
NESTED = "{class_path: trapped.Trap}"
MODEL = "sklearn.linear_model.LogisticRegression\n  hyperparameters: {C: 0.5}"
PIPELINE = "sklearn.pipeline.Pipeline\n  hyperparameters: {steps: [{name: a, estimator: {class_path: sklearn.linear_model.Ridge}}],"
BAGGING = "sklearn.ensemble.BaggingClassifier"
PLACES = {
    "the model": ("sklearn.linear_model.LogisticRegression", "trapped.Trap"),
    "an argument of the model": ("{C: 0.5}", f"{{C: {NESTED}}}"),
    "an estimator of an ensemble": (
        MODEL,
        f"sklearn.ensemble.VotingClassifier\n  hyperparameters: {{estimators: [{{name: a, estimator: {NESTED}}}]}}",
    ),
    "a step of a pipeline": (
        MODEL,
        f"sklearn.pipeline.Pipeline\n  hyperparameters: {{steps: [{{name: a, estimator: {NESTED}}}]}}",
    ),
    "the memory of a pipeline": (MODEL, f"{PIPELINE} memory: {{class_path: joblib.Memory, params: {{location: trapped}}}}}}"),
    "a cache of pickles": (MODEL, f"{PIPELINE} memory: trapped}}"),
    "a transformer of a ColumnTransformer": (
        "{name: default_preprocessor}",
        f"{{class_path: sklearn.compose.ColumnTransformer, params: {{transformers: [{{name: a, transformer: {NESTED}, columns: [x]}}]}}}}",
    ),
    "a function of a transformer": (
        "{name: default_preprocessor}",
        "{class_path: sklearn.preprocessing.FunctionTransformer, params: {func: {class_path: trapped.spring}}}",
    ),
    "a choice of the search": ("{C: 0.5}", f"{{C: {{type: categorical, choices: [1.0, {NESTED}], default: 1.0}}}}"),
    "a class inside a class inside a list": (
        MODEL,
        f"{BAGGING}\n  hyperparameters: {{estimator: {{class_path: {BAGGING}, hyperparameters: {{estimator: {NESTED}}}}}}}",
    ),
    "the loader": ("{name: default_loader, source_uri: rows.csv}", "{class_path: trapped.Trap}"),
    "the augmenter": ("{name: pass_through}", "{class_path: trapped.Trap}"),
    "the preprocessor": ("{name: default_preprocessor}", "{class_path: trapped.Trap}"),
    "the evaluator": ("  metrics: [accuracy]", "  metrics: [accuracy]\n  evaluator: {class_path: trapped.Trap}"),
    "a metric": ("[accuracy]", "[trapped.spring]"),
    "the splitter": ("train_test_split", "trapped.Trap"),
    "the task": ("task_type: classification", "task_type: trapped.Trap"),
    "another word for it": ("{name: pass_through}", "{type: trapped.Trap}"),
    "a step of the preprocessor": (
        "{name: default_preprocessor}", "{name: default_preprocessor, params: {steps: [{class_path: trapped.Trap, columns: [x]}]}}",
    ),
    "a role and a name": ("sklearn.linear_model.LogisticRegression", "'model:trapped.Trap'"),
    "a walk out of scikit-learn": ("sklearn.linear_model.LogisticRegression", "sklearn.utils.os.system"),
}  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that appears where the trap is sprung."""
    trace = tmp_path / "trace"
    with distributions.on_path(tmp_path / "site", monkeypatch) as site:
        site.mkdir()
        (site / "trapped.py").write_text(TRAP.format(trace=str(trace)))
        yield trace


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    _lay(folder)
    return folder


def assembled(folder: Path, recipe: str, **more: Any) -> None:
    from recipeline.assemble import assemble

    (folder / "tried.yaml").write_text(recipe)
    configured = settings.load(project=folder, environ={}, **more)
    assemble(load_recipe(folder / "tried.yaml"), configured)


@pytest.mark.parametrize("where", sorted(PLACES))
def test_a_foreign_class_is_refused_wherever_a_recipe_names_it(trap: Path, place: Path, where: str) -> None:
    """Neither imported nor made: the file is not there. The error names line and column."""
    old, new = PLACES[where]
    assert old in RECIPE
    with pytest.raises(RecipelineError) as caught:
        assembled(place, RECIPE.replace(old, new))
    assert caught.value.code in {3, 4}
    assert "tried.yaml:" in str(caught.value)
    if where not in {"a metric", "the task", "a role and a name"}:  # names only: a dotted path is unknown there
        assert caught.value.code == 4, str(caught.value)
    assert not trap.exists()
    assert "trapped" not in sys.modules


def test_a_mapping_that_is_taken_literally_is_only_data(trap: Path, place: Path) -> None:
    """`literal` protects from being read as a range or a part; it makes no object."""
    text = RECIPE.replace("{C: 0.5}", "{class_weight: {literal: {class_path: trapped.Trap}}}")
    assembled(place, text)
    assert not trap.exists()


def test_the_trap_works(trap: Path, place: Path) -> None:
    """The positive control: in an allowed package the same recipe imports it and makes it."""
    (place / "config" / "base.yaml").write_text("security: {allowed_namespaces: [sklearn, trapped]}\n")
    assembled(place, RECIPE.replace(*PLACES["the model"]))
    assert trap.read_text() == "made"


CONFIGS = {
    "an adapter": "data_adapters: {adapters: {sql: {class_name: trapped.Trap, config: {}}}}\n",
    "an adapter that walks out": "data_adapters: {adapters: {sql: {class_name: sklearn.utils.os.system, config: {}}}}\n",
    "arguments of a part": "parts: {preprocessor: {default_preprocessor: {steps: [{class_path: trapped.Trap, columns: [x]}]}}}\n",
}


@pytest.mark.parametrize("where", sorted(CONFIGS))
def test_a_configuration_names_no_foreign_class_either(trap: Path, place: Path, where: str) -> None:
    """Only `security.allowed_namespaces` widens the list."""
    from recipeline.assemble import assemble

    (place / "config" / "base.yaml").write_text(CONFIGS[where])
    (place / "tried.yaml").write_text(RECIPE.replace("rows.csv", "SELECT x FROM t"))
    with pytest.raises(RecipelineError) as caught:
        assemble(load_recipe(place / "tried.yaml"), settings.load(project=place, environ={})).loader.load()
    assert caught.value.code in {3, 4}
    assert not trap.exists()


def test_an_entry_point_that_leads_out_is_not_followed(trap: Path, place: Path, tmp_path: Path) -> None:
    """A distribution may register what it owns; the standard library it does not own."""
    for name, target in {"run": "os:system", "shell": "subprocess:Popen", "copy": "shutil:copy"}.items():
        distributions.install(tmp_path / "site", f"acme-{name}", {}, {"model": {f"acme_{name}": target}})
    registry.refresh()
    for name, target in (("acme_run", "os.system"), ("acme_shell", "subprocess.Popen"), ("acme_copy", "shutil.copy")):
        assert {point.value for point in importlib.metadata.entry_points(group="recipeline.model", name=name)}
        with pytest.raises(RecipelineError) as caught:
            assembled(place, RECIPE.replace("sklearn.linear_model.LogisticRegression", target))
        assert caught.value.code == 4
        with pytest.raises(RecipelineError) as caught:
            assembled(place, RECIPE.replace("class_path: sklearn.linear_model.LogisticRegression", f"name: {name}"))
        assert caught.value.code in {3, 4}


def test_a_recipe_cannot_widen_the_list(trap: Path, place: Path) -> None:
    """There is no key for it."""
    for more in ("security: {allowed_namespaces: [trapped]}\n", "allowed_namespaces: [trapped]\n"):
        with pytest.raises(RecipelineError) as caught:
            assembled(place, RECIPE.replace(*PLACES["the model"]) + more)
        assert caught.value.code in {3, 4}
        assert not trap.exists()


# --- artifacts ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gadgets") / "place"
    _lay(folder)
    return recipeline.train(folder / "good.yaml", settings=settings.load(project=folder, environ={})).artifact


def _lay(folder: Path) -> None:
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.yaml").write_text("execution: {report: false}\n")
    (folder / "rows.csv").write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(60)))
    (folder / "good.yaml").write_text(RECIPE)


def forged(saved: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy in which something was changed by hand, with a manifest made to fit."""
    shutil.copytree(saved, folder)
    change(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    artifact.seal(folder, binding=manifest["binding"], about={"run_id": manifest["run_id"], "name": "good"})
    return folder


def _recipe(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / "recipe.yaml").read_text()
        assert old in text
        (folder / "recipe.yaml").write_text(text.replace(old, new))

    return change


def _part(**fields: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "parts" / "model" / "part.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


FORGED: dict[str, Callable[[Path], None]] = {
    "the model in recipe.yaml": _recipe("sklearn.linear_model.LogisticRegression", "trapped.Trap"),
    "the loader in recipe.yaml": _recipe("default_loader", "trapped.Trap"),
    "a tag in recipe.yaml": _recipe("sklearn.linear_model.LogisticRegression", "!!python/name:trapped.Trap ''"),
    "a class that keeps itself in part.json": _part(**{"format": "own", "class": "trapped.Trap"}),
    "a pickle in part.json": _part(**{"format": "cloudpickle", "class": "trapped.Trap"}),
    "another class in part.json": _part(**{"class": "trapped.Trap"}),
}


@pytest.mark.parametrize("what", sorted(FORGED))
def test_an_artifact_changed_by_hand_runs_nothing(trap: Path, saved: Path, tmp_path: Path, what: str) -> None:
    """Exit 9 as it lies there; and with a manifest made to fit, 3, 4 or 9."""
    plain = tmp_path / "plain"
    shutil.copytree(saved, plain)
    FORGED[what](plain)
    with pytest.raises(RecipelineError) as caught:
        recipeline.load(plain)
    assert caught.value.code == 9
    with pytest.raises(RecipelineError) as caught:
        recipeline.load(forged(saved, tmp_path / "forged", FORGED[what]))
    assert caught.value.code in {3, 4, 9}
    assert not trap.exists()
    assert "trapped" not in sys.modules


def test_a_skops_file_that_names_a_foreign_class_runs_nothing(trap: Path, saved: Path, tmp_path: Path) -> None:
    """The table of trusted types is ours, never the file's."""
    import zipfile

    def change(folder: Path) -> None:
        path = folder / "parts" / "model" / "part.skops"
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        schema = json.loads(members["schema.json"])
        schema |= {"__class__": "Trap", "__module__": "trapped"}
        members["schema.json"] = json.dumps(schema).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    with pytest.raises(RecipelineError) as caught:
        recipeline.load(forged(saved, tmp_path / "forged", change))
    assert caught.value.code in {9, 10}
    assert not trap.exists()
