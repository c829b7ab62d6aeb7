"""What bad input gets: the lines of the table in the reliability page that concern recipes, classes, files and artifacts.

Each with the standard checks: the exit code, an error line that names field or file and what to do, earlier good outputs
byte-identical, no temporary file left over, and the next good run succeeds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import resource
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import distributions
from recipeline import registry
from recipeline.stores import files

pytestmark = pytest.mark.xdist_group("bad-input")  # one good project, copied for each test

GOOD = """\
name: good
model:
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters: {C: 0.5}
  loader: {name: default_loader, source_uri: rows.csv}
  data_interface: {task_type: classification, target_col: churned, entity_cols: [customer]}
evaluation:
  metrics: [accuracy, roc_auc]
  validation: {method: train_test_split, test_size: 0.25}
"""
TUNED = GOOD.replace("C: 0.5", "C: {type: float, low: 0.1, high: 9}") + "hyperparameter_tuning: {enabled: true, n_trials: 3}\n"
SHOP = """\
data_adapters: {adapters: {sql: {class_name: SqlAdapter, config: {connection_uri: 'sqlite:///shop.db', timeout: 5}}}}
"""
QUIET = ("--set", "execution.report=false")


def rows(n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "customer": [f"c{i}" for i in range(n)],
            "age": rng.integers(18, 90, n),
            "income": rng.normal(2, 1, n),
            "country": rng.choice(["dk", "kr"], n),
        }
    )
    frame["churned"] = np.where(frame["income"] + frame["age"] / 50 > 3, "yes", "no")
    return frame


def shop(folder: Path, frame: pd.DataFrame) -> None:
    """The rows in a database, beside a table that nobody may touch."""
    (folder / "shop.db").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection:
        frame.to_sql("customers", connection, index=False)
        connection.execute("CREATE TABLE kept (word TEXT)")
        connection.execute("INSERT INTO kept VALUES ('still here')")
        connection.commit()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A project with one good run and its predictions."""
    import recipeline
    from recipeline import runs, settings

    folder = tmp_path_factory.mktemp("bad") / "project"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.yaml").write_text("execution: {report: false}\n")
    (folder / "config" / "local.local.yaml").write_text(SHOP)
    for name in ("local", "prod"):
        shutil.copy(Path(__file__).parents[1] / "config" / f"{name}.yaml", folder / "config")
    shutil.copy(empty_store, folder / "mlflow.db")
    rows().to_csv(folder / "rows.csv", index=False)
    rows().to_parquet(folder / "rows.parquet", index=False)
    shop(folder, rows())
    (folder / "good.yaml").write_text(GOOD)
    configured = settings.load(project=folder, environ={})
    run = recipeline.train(folder / "good.yaml", settings=configured)
    opened = runs.open_run(run.id, configured)
    runs.predict_batch(opened, configured, source=str(folder / "rows.csv"), output=str(folder / "good.parquet"))
    return folder


class House:
    """A project in which one bad thing is tried at a time."""

    def __init__(self, folder: Path, command: Callable[..., Any]) -> None:
        self.folder, self.command = folder, command
        (run,) = (folder / "mlruns" / "0").iterdir()
        self.run_id, self.model = run.name, run / "artifacts" / "model"
        self.good = self.outputs()

    def outputs(self) -> dict[str, str]:
        kept = [self.folder / "good.parquet", *(path for path in self.model.rglob("*") if path.is_file())]
        return {str(path.relative_to(self.folder)): files.sha256(path) for path in kept}

    def refuses(self, code: int, *arguments: str | Path, words: tuple[str, ...] = (), next_good: bool = True) -> Any:
        """Run a command that must fail so, and check what holds for every failure."""
        answer = self.command(*arguments, "--json")
        assert answer.code == code, answer
        lines = [line for line in answer.err.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT", line)]
        assert lines, answer
        assert all(re.match(r"error\[[a-z0-9-]+\]", line) for line in lines), answer
        assert "Traceback" not in answer.err
        assert str(self.folder) not in "\n".join(lines)
        for word in words:
            assert word in "\n".join(lines), answer
        assert self.outputs() == self.good
        assert [str(path) for path in self.folder.rglob(".tmp-*")] == []
        if next_good:
            self.works()
        return answer

    def works(self) -> None:
        """The next good run succeeds."""
        done = self.command("train", "--recipe-file", "good.yaml", *QUIET)
        assert done.code == 0, done
        again = self.command("batch-inference", "--run-id", self.run_id, "--input", "rows.csv", "--output", "good.parquet", "--json")
        assert again.json["already_done"] is True, again

    def train(self, code: int, text: str | bytes, *words: str, sound: bool = False) -> Any:
        """A recipe that `train` refuses; `validate` too, unless the recipe is sound and the trouble is in what it names."""
        path = self.folder / "bad.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        looked = self.command("validate", "--recipe-file", path.name)
        assert looked.code == (0 if sound else code), looked
        return self.refuses(code, "train", "--recipe-file", path.name, *QUIET, words=words)


@pytest.fixture
def house(template: Path, project: Path, command: Callable[..., Any]) -> House:
    shutil.rmtree(project)
    shutil.copytree(template, project)
    os.chdir(project)  # the one that is there now
    return House(project, command)


# --- recipes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("bad.yaml", "empty")),
        ("# nothing\n", ("bad.yaml", "empty")),
        ("- a\n", ("bad.yaml",)),
        (GOOD.replace("evaluation:", "evalution:"), ("bad.yaml:7:1", "did you mean evaluation?")),
        (GOOD.replace("target_col", "traget_col"), ("bad.yaml:6:", "did you mean target_col?")),
        (GOOD + "name: again\n", ("bad.yaml:10:1", "line 1")),
        (GOOD.replace("  loader", "\tloader"), ("bad.yaml:5:", "tab")),
        (GOOD.replace("good", "b\xf8d").encode("latin-1"), ("bad.yaml:1:", "UTF-8")),
        (TUNED.replace("low: 0.1", "low: 10"), ("bad.yaml:4:", "low")),
        (TUNED.replace("n_trials: 3", "n_trials: 0"), ("bad.yaml:10:", "n_trials")),
        (TUNED.replace("n_trials: 3", "n_trials: -1"), ("bad.yaml:10:", "n_trials")),
        (TUNED.replace("n_trials: 3", "n_trials: 1000000000"), ("bad.yaml:10:", "n_trials")),
        (TUNED.replace("enabled: true, ", "enabled: true, direction: min, "), ("bad.yaml:10:", "minimize")),
        (TUNED.replace("enabled: true, ", "enabled: true, metric: roc_auc, direction: minimize, "), ("bad.yaml:10:", "maximize")),
        (TUNED.replace("hyperparameter_tuning: {enabled: true, n_trials: 3}\n", ""), ("bad.yaml:4:", "C")),
        (GOOD.replace("accuracy, roc_auc", "rmse"), ("bad.yaml:8:", "rmse", "classification")),
        (GOOD.replace("C: 0.5", "D: 0.5"), ("bad.yaml:4:", "LogisticRegression has no such argument")),
        (GOOD.replace("C: 0.5", "C: many"), ("bad.yaml:4:", "C")),
        (GOOD.replace("test_size: 0.25", "test_size: 1.5"), ("bad.yaml:9:", "test_size")),
        (GOOD.replace("name: default_loader, ", "name: defualt_loader, "), ("bad.yaml:5:", "did you mean default_loader?")),
    ],
)
def test_a_bad_recipe_is_exit_3_with_line_and_column(house: House, text: str | bytes, words: tuple[str, ...]) -> None:
    """Before any data are read: validate and train say the same."""
    house.train(3, text, *words)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system ''", "!env HOME"])
def test_a_tag_that_makes_objects_is_refused(house: House, tag: str) -> None:
    """Exit 4 for Python's; any other tag is not YAML that a recipe may have."""
    house.train(4 if "python" in tag else 3, GOOD.replace("C: 0.5", f"C: {tag}"), "bad.yaml:4:")


def test_a_bomb_of_aliases_is_refused(house: House) -> None:
    """A few lines that would be billions."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    house.train(3, bomb + GOOD, "bad.yaml:", "alias")


@pytest.mark.parametrize("change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n")])
def test_a_byte_order_mark_and_windows_lines_are_accepted(house: House, change: Callable[[bytes], bytes]) -> None:
    """They are in the file, and nobody sees them."""
    (house.folder / "windows.yaml").write_bytes(change(GOOD.encode()))
    done = house.command("train", "--recipe-file", "windows.yaml", *QUIET)
    assert done.code == 0, done


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "#" + "x" * 10_000_000,
        GOOD + "".join(f"key{i}: 1\n" for i in range(40_000)),
        GOOD + "name: x\n" * 40_000,
        GOOD.replace("{C: 0.5}", "[" * 20_000 + "]" * 20_000),
        GOOD.replace("accuracy", "a" * 500_000),
        TUNED.replace("{type: float, low: 0.1, high: 9}", f"{{type: categorical, choices: [{', '.join(map(str, range(30_000)))}]}}"),
        "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 60_000) + "]\n" + GOOD,
    ],
    ids=["10 MB", "unknown keys", "duplicate keys", "deep", "long name", "choices", "aliases"],
)
def test_a_huge_recipe_is_refused_in_few_words(house: House, text: str) -> None:
    """However many mistakes there are, two hundred are told and the others counted."""
    answer = house.train(3, text, "bad.yaml:")
    assert len(answer.err) < 200_000
    assert len(answer.out) < 200_000


def test_a_target_that_is_not_there_is_exit_5(house: House) -> None:
    """With the columns that there are."""
    house.train(5, GOOD.replace("target_col: churned", "target_col: chruned"), "chruned", "did you mean churned?", sound=True)


def test_a_recipe_that_is_not_there_is_exit_3(house: House) -> None:
    house.refuses(3, "train", "--recipe-file", "god.yaml", words=("god.yaml", "did you mean good.yaml?"))


# --- class_path -------------------------------------------------------------------------------------------------------------


def with_class(path: str, arguments: str = "{}") -> str:
    return GOOD.replace("sklearn.linear_model.LogisticRegression", path).replace("{C: 0.5}", arguments)


@pytest.mark.parametrize(
    "path",
    [
        "os.system", "builtins.eval", "subprocess.Popen", "importlib.import_module", "sklearn.utils.os.system",
        "sklearn.datasets.os.system", "this.s", "antigravity.geohash", "recipeline.stores.files.Path",
    ],
)  # fmt: skip
def test_a_class_outside_the_list_is_exit_4_and_not_imported(house: House, path: str) -> None:
    """Before import where the module is foreign; by what it resolves to where it hides behind a module that is allowed."""
    head = path.partition(".")[0]
    fresh = head in {"this", "antigravity"}
    house.train(4, with_class(path), "bad.yaml:3:", "allow")
    if fresh:
        assert head not in sys.modules


def test_a_nested_class_outside_the_list_is_exit_4(house: House) -> None:
    """However deep it stands."""
    nested = "{estimator: {class_path: sklearn.ensemble.BaggingClassifier, hyperparameters: {estimator: {class_path: os.system}}}}"
    house.train(4, with_class("sklearn.ensemble.BaggingClassifier", nested), "bad.yaml:4:", "os.system")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("sklearn.linear_model.LogisticRegresion", ("did you mean", "LogisticRegression")),
        ("sklearn.liner_model.LogisticRegression", ("liner_model",)),
        ("sklearn.linear_model", ("bad.yaml:3:",)),
        ("logistic_regression", ("bad.yaml:3:",)),
        ("sklearn.preprocessing.StandardScaler", ("predict",)),
        ("sklearn.metrics.accuracy_score", ("bad.yaml:3:",)),
        ("..os.system", ("bad.yaml:3:",)),
    ],
)
def test_a_class_that_is_none_is_exit_3(house: House, path: str, words: tuple[str, ...]) -> None:
    """Missing, misspelt, or of the wrong kind."""
    house.train(3, with_class(path), "bad.yaml:3:", *words)


@pytest.mark.parametrize("path", ["xgboost.XGBClassifier", "lightgbm.LGBMClassifier", "catboost.CatBoostClassifier"])
def test_a_library_that_is_not_installed_names_its_extra(house: House, path: str) -> None:
    """Exit 3 with the line to type."""
    if importlib.util.find_spec(path.partition(".")[0]) is not None:
        pytest.skip("it is installed")
    house.train(3, with_class(path), "bad.yaml:3:", "pip install 'recipeline[boosting]'")


def test_two_plugins_of_one_name_are_exit_3(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both distributions are named; recipes that do not use the name do not notice."""
    for plugin in ("one", "two"):
        distributions.install(tmp_path / "site", f"plugin-{plugin}", {}, {"model": {"twice": f"plugin_{plugin}:Model"}})
    with monkeypatch.context() as path:
        path.syspath_prepend(tmp_path / "site")
        registry.refresh()
        house.train(3, with_class("twice"), "bad.yaml:3:", "plugin-one", "plugin-two")
    registry.refresh()


# --- files ------------------------------------------------------------------------------------------------------------------


def with_source(name: str) -> str:
    return GOOD.replace("rows.csv", name)


@pytest.mark.parametrize("name", ["nowhere.csv", "nowhere.parquet", "file://nowhere.csv", "nowhere/rows.csv", "rows.xlsx", "."])
def test_a_file_that_is_not_there_is_exit_5(house: House, name: str) -> None:
    house.train(5, with_source(name), name.removeprefix("file://"), sound=True)


@pytest.mark.parametrize("uri", ["http://user:s3cret@127.0.0.1:9/x.csv", "s3://bucket/x.csv", "zip://x.csv::rows.zip", "memory://x.csv"])
def test_a_foreign_address_is_exit_4_without_its_password(house: House, uri: str) -> None:
    """Outside of the configured roots nothing is asked for."""
    answer = house.train(4, with_source(f'"{uri}"'), "chained" if "::" in uri else "roots", sound="::" not in uri)
    assert "s3cret" not in answer.err + answer.out


def test_a_forbidden_file_is_exit_5(house: House) -> None:
    """Permissions, not a crash."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (house.folder / "locked.csv").write_text("a\n1\n")
    (house.folder / "locked.csv").chmod(0)
    house.train(5, with_source("locked.csv"), "locked.csv", "permissions", sound=True)


def test_a_torn_parquet_file_is_exit_5(house: House) -> None:
    """Cut anywhere, its footer flipped, or nothing in it at all."""
    good = (house.folder / "rows.parquet").read_bytes()
    flipped = bytearray(good)
    flipped[-20] ^= 0xFF
    for number, bad in enumerate([good[: len(good) // 2], good[:-1], good[:4], b"", bytes(flipped), b"PAR1" * 3]):
        (house.folder / "bad.parquet").write_bytes(bad)
        house.train(5, with_source("bad.parquet"), "bad.parquet", sound=True)
        command = ("batch-inference", "--run-id", house.run_id, "--input", "bad.parquet", "--output", f"out{number}.parquet")
        house.refuses(5, *command, words=("bad.parquet",), next_good=False)
        assert not (house.folder / f"out{number}.parquet").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:7], lines[7] + b",more", *lines[8:]], ("bad.csv:8",)),
        (lambda lines: [*lines[:7], b"c6,30", *lines[8:]], ("bad.csv:8",)),
        (lambda lines: [*lines[:7], lines[7].replace(b"c6", b"c\0"), *lines[8:]], ("bad.csv:8", "NUL")),
        (lambda lines: [*lines[:7], lines[7].replace(b"c6", b"\xff\xfe"), *lines[8:]], ("bad.csv:8", "UTF-8")),
        (lambda lines: [], ("bad.csv", "empty")),
        (lambda lines: lines[:1], ("no rows",)),
        (lambda lines: [lines[0].replace(b"age", b"income"), *lines[1:]], ("bad.csv", "income")),
    ],
)
def test_a_broken_csv_file_is_exit_5_with_its_line(
    house: House, change: Callable[[list[bytes]], list[bytes]], words: tuple[str, ...]
) -> None:
    """Ragged, with NUL, not UTF-8, empty, without rows, with two columns of one name."""
    lines = change((house.folder / "rows.csv").read_bytes().splitlines())
    (house.folder / "bad.csv").write_bytes(b"".join(line + b"\n" for line in lines))
    house.train(5, with_source("bad.csv"), *words, sound=True)


def test_rows_that_break_the_contract_are_exit_5(house: House) -> None:
    """Column, expected and got; nothing is written."""
    for number, (change, words) in enumerate(
        [
            ({"income": "x"}, ("income", "float64", "string")),
            ({"age": 1.5}, ("age", "int64", "float64")),
            ({"income": None}, ("income",)),
            ({"country": 7}, ("country", "string", "int64")),
        ]
    ):
        rows().assign(**change).to_parquet(house.folder / "bad.parquet", index=False)
        command = ("batch-inference", "--run-id", house.run_id, "--input", "bad.parquet", "--output", f"out{number}.parquet")
        house.refuses(5, *command, words=words, next_good=number == 0)
        assert not (house.folder / f"out{number}.parquet").exists()
    rows().drop(columns="income").rename(columns={"age": "aeg"}).to_parquet(house.folder / "bad.parquet", index=False)
    house.refuses(5, *command, words=("income", "age", "is it 'aeg'?"), next_good=False)


@contextlib.contextmanager
def limited(size: int) -> Any:
    """No file of this process may become larger: the disk is full for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("output", ["out.csv", "out.parquet", "parts/"])
def test_a_full_disk_is_exit_7_and_the_old_output_stays(house: House, output: str) -> None:
    """Not a byte of the old one is lost, and nothing half-written is left."""
    command = ["batch-inference", "--run-id", house.run_id, "--input", "rows.csv", "--output", output]
    assert house.command(*command).code == 0
    place = house.folder / output.rstrip("/")
    old = {path.name: path.read_bytes() for path in ([place] if place.is_file() else sorted(place.iterdir()))}
    many = pd.concat([rows()] * 40, ignore_index=True)
    many.assign(income=np.random.default_rng(1).normal(2, 1, len(many))).to_csv(house.folder / "many.csv", index=False)  # does not compress
    command[4] = "many.csv"
    with limited(8192):
        house.refuses(7, *command, "--overwrite", words=("disk is full", output.rstrip("/")), next_good=False)
    now = {path.name: path.read_bytes() for path in ([place] if place.is_file() else sorted(place.iterdir()))}
    assert now == old
    assert house.command(*command, "--overwrite").code == 0
    house.works()


def test_a_disk_that_fills_up_in_training_is_exit_7(house: House) -> None:
    """In a process of its own, with a limit on its files that the store still fits in and the artifact does not."""
    size = (house.folder / "mlflow.db").stat().st_size + (1 << 20)
    rng = np.random.default_rng(0)
    pd.DataFrame(rng.normal(size=(400, 40))).rename(columns=lambda i: f"f{i}").assign(y=rng.normal(size=400)).to_parquet(
        house.folder / "wide.parquet"
    )
    (house.folder / "forest.yaml").write_text(
        "name: forest\nmodel:\n  class_path: sklearn.ensemble.RandomForestRegressor\n  hyperparameters: {n_estimators: 120}\n"
        "  loader: {name: default_loader, source_uri: wide.parquet}\n  data_interface: {task_type: regression, target_col: y}\n"
    )
    with limited(size):
        answer = house.refuses(7, "train", "--recipe-file", "forest.yaml", *QUIET, words=("disk is full",), next_good=False)
    with contextlib.closing(sqlite3.connect(house.folder / "mlflow.db")) as store:
        ((status, run),) = store.execute("SELECT status, run_uuid FROM runs WHERE run_uuid <> ?", (house.run_id,)).fetchall()
    assert status == "FAILED", answer
    assert not (house.folder / "mlruns" / "0" / run / "artifacts" / "model").exists()
    again = house.command("train", "--recipe-file", "forest.yaml", *QUIET, "--json")
    assert again.code == 0, again
    assert again.json["run_id"] == run  # room was made: it goes on where it had stopped
    house.works()


def test_a_folder_that_cannot_be_written_is_exit_7_before_training(house: House) -> None:
    """For the work, and for the artifacts."""
    answer = house.refuses(7, "train", "--recipe-file", "good.yaml", "--set", "execution.work_folder=/proc/recipeline", next_good=False)
    assert "phase" not in answer.err
    (house.folder / "wall").write_text("")
    answer = house.refuses(7, "train", "--recipe-file", "good.yaml", "--set", "mlflow.artifact_location=wall", words=("wall",))
    assert "phase" not in answer.err


# --- SQL ------------------------------------------------------------------------------------------------------------------------


def with_query(text: str) -> str:
    return GOOD.replace("source_uri: rows.csv", f"source_uri: {json.dumps(text)}")


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("SELECT '{{ cycler.__init__.__globals__ }}' FROM customers", 4, ("private",)),
        ("SELECT * FROM customers {% include '../../x' %}", 4, ("outside",)),
        ("SELECT * FROM customers {% include name %}", 4, ("include",)),
        ("SELECT * FROM customers WHERE age > {{ misssing }}", 3, ("misssing",)),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}SELECT 1", 4, ("too much work",)),
        ("WITH gone AS (DELETE FROM kept RETURNING word) SELECT * FROM gone", 4, ()),
        ("SELECT * INTO other FROM customers", 4, ()),
        ("COPY customers TO PROGRAM 'touch pwned'", 4, ()),
        ("SELECT * FROM customers; DELETE FROM kept", 4, ()),
        ("DELETE FROM kept", 4, ()),
        ("ATTACH 'other.db' AS other", 4, ()),
        ("SELECT load_extension('x') FROM customers", 4, ()),
        ("SELECT a.*, b.* FROM customers a JOIN customers b USING (customer)", 5, ("age",)),
        ("SELECT * FROM nowhere", 5, ("nowhere",)),
        ("SELECT customer, age, income, country, 'x' || age AS churned, agee FROM customers", 5, ("agee",)),
    ],
)
def test_a_query_that_may_not_be_is_refused(house: House, query: str, code: int, words: tuple[str, ...]) -> None:
    """As a file, and as a template where it is one: nothing was read, nothing was changed."""
    name = "query.sql.j2" if "{{" in query or "{%" in query else "query.sql"
    (house.folder / name).write_text(query)
    named = () if code == 5 else (name,)
    house.train(code, with_source(name), *named, *words, sound=code != 4)  # `validate` opens it, and reads no data
    with contextlib.closing(sqlite3.connect(house.folder / "shop.db")) as connection:
        assert connection.execute("SELECT word FROM kept").fetchall() == [("still here",)]
    assert not (house.folder / "other.db").exists()
    assert not (house.folder / "pwned").exists()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"names": ["c1", "' OR 1=1 --"], "low": 0}, 1),
        ({"names": ["c1", "c2'); DELETE FROM kept; --"], "low": 0}, 1),
        ({"names": [], "low": 0}, 0),
        ({"names": [f"c{i}" for i in range(100_000)], "low": 0}, 120),
    ],
    ids=["quote", "statement", "none", "100,000"],
)
def test_a_parameter_is_only_text(house: House, params: dict[str, Any], expected: int) -> None:
    """What looks like SQL is looked for, and not found; no names and a hundred thousand work."""
    (house.folder / "query.sql.j2").write_text("SELECT * FROM customers WHERE customer IN {{ names }} AND age > {{ low }}")
    (house.folder / "sql.yaml").write_text(with_source("query.sql.j2"))
    from recipeline import recipe, settings
    from recipeline.assemble import assemble

    components = assemble(recipe.load(house.folder / "sql.yaml"), settings.load(project=house.folder, environ={}), params=params)
    assert len(components.loader.load()) == expected
    with contextlib.closing(sqlite3.connect(house.folder / "shop.db")) as connection:
        assert connection.execute("SELECT word FROM kept").fetchall() == [("still here",)]


def test_a_column_that_changed_its_type_since_training_is_exit_5(house: House) -> None:
    """With what was expected and what came; no output."""
    (house.folder / "sql.yaml").write_text(with_query("SELECT * FROM customers"))
    run_id = house.command("train", "--recipe-file", "sql.yaml", *QUIET, "--json").json["run_id"]
    shop(house.folder, rows().assign(income=lambda frame: "x" + frame["income"].astype(str)))
    command = ("batch-inference", "--run-id", run_id, "--output", "out.parquet")
    house.refuses(5, *command, words=("income", "float64", "string"), next_good=False)
    assert not (house.folder / "out.parquet").exists()
    shop(house.folder, rows())
    assert house.command(*command).code == 0
    house.works()


def test_a_database_that_does_not_answer_is_exit_6_and_trains_nothing(house: House) -> None:
    """Locked by another writer for longer than one waits; afterwards the same command succeeds."""
    (house.folder / "sql.yaml").write_text(with_query("SELECT * FROM customers"))
    with contextlib.closing(sqlite3.connect(house.folder / "shop.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        house.refuses(6, "train", "--recipe-file", "sql.yaml", *QUIET, words=("shop.db",), next_good=False)
        connection.rollback()
    assert house.command("train", "--recipe-file", "sql.yaml", *QUIET).code == 0
    house.works()


# --- artifacts ------------------------------------------------------------------------------------------------------------------


def test_a_damaged_artifact_is_exit_9_at_every_door(house: House) -> None:
    """One flipped bit: show, batch and server name the file; restored, it works again."""
    path = house.model / "parts" / "model" / "part.skops"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 4
    path.write_bytes(bytes(bad))
    house.good = house.outputs()
    for command in (
        ("show", house.run_id),
        ("batch-inference", "--run-id", house.run_id, "--input", "rows.csv", "--output", "out.csv"),
        ("serve-api", "--run-id", house.run_id, "--set", "api_serving.enabled=true"),
    ):
        house.refuses(9, *command, words=("parts/model/part.skops", "restore"), next_good=False)
    assert not (house.folder / "out.csv").exists()
    path.write_bytes(good)
    house.good = house.outputs()
    house.works()


def test_an_artifact_without_a_manifest_is_no_run(house: House) -> None:
    """Somebody took it away: there is no artifact to trust."""
    trained = house.command("train", "--recipe-file", "good.yaml", *QUIET, "--json").json
    manifest = Path(trained["artifact"], "manifest.json")
    manifest.unlink()
    house.refuses(5, "show", trained["run_id"], words=("has no artifact",), next_good=False)
    for text in ("", "{}", "[]", '{"files": 3}', "\0"):
        manifest.write_text(text)
        house.refuses(9, "show", trained["run_id"], words=("manifest.json",), next_good=False)
    house.works()


def test_a_planted_pickle_is_never_read(house: House) -> None:
    """A part that is said to be a pickle, with a manifest that is not ours to match: nothing in it is executed."""
    folder = house.model / "parts" / "model"
    (folder / "part.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    about = json.loads((folder / "part.json").read_text())
    (folder / "part.json").write_text(json.dumps({**about, "format": "cloudpickle"}))
    house.good = house.outputs()
    house.refuses(9, "show", house.run_id, words=("parts/model/part",), next_good=False)
    assert not (house.folder / "pwned").exists()


@pytest.mark.parametrize(
    "reference",
    ["../../x", "..%2f..%2fx", "%2e%2e/%2e%2e/x", "....//....//x", "/etc/passwd", "a/../../x", "..", "x\\..\\y", "models:/../x@y"],
)
def test_a_run_is_no_path(house: House, reference: str) -> None:
    """Plain, encoded or doubled: exit 2 at every door, and nothing outside is looked at."""
    outside = house.folder.parent / "x"
    shutil.copytree(house.model, outside)
    for command in (
        ("show", reference),
        ("batch-inference", "--run-id", reference, "--input", "rows.csv", "--output", "out.csv"),
        ("serve-api", "--run-id", reference, "--set", "api_serving.enabled=true"),
        ("compare", house.run_id, reference),
        ("train", "--recipe-file", "good.yaml", "--resume", reference),
    ):
        answer = house.command(*command)
        assert answer.code in {2, 5}, (command, answer)
        assert answer.code == 2 or command[0] in {"train", "compare"}, answer
    assert house.outputs() == house.good


def _mix(house: House) -> None:
    """The model of another run of the same recipe."""
    other = house.command("train", "--recipe-file", "good.yaml", *QUIET, "--set", "execution.report=false", "--json").json
    for path in Path(other["artifact"], "parts", "model").iterdir():
        shutil.copy(path, house.model / "parts" / "model")


def _link_file(house: House) -> None:
    path = house.model / "metrics.json"
    path.rename(house.folder / "elsewhere.json")
    path.symlink_to(house.folder / "elsewhere.json")


def _link_folder(house: House) -> None:
    path = house.model / "parts" / "model"
    path.rename(house.folder / "elsewhere")
    path.symlink_to(house.folder / "elsewhere", target_is_directory=True)


def _listed(name: str) -> Callable[[House], None]:
    def change(house: House) -> None:
        (house.model.parent / "x").write_text("outside")
        path = house.model / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["files"][name] = files.sha256(house.model.parent / "x")
        path.write_text(json.dumps(manifest))

    return change


def _nested(house: House) -> None:
    (house.model / "manifest.json").write_text("[" * 200_000)


def _added(house: House) -> None:
    (house.model / "parts" / "model" / "part.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_mix, ("parts/model",)),
        (_link_file, ("metrics.json", "link")),
        (_link_folder, ("parts/model", "link")),
        (_listed("../x"), ("../x",)),
        (_listed("parts/../../x"), ("x",)),
        (_listed("/etc/hostname"), ("/etc/hostname",)),
        (_nested, ("manifest.json",)),
        (_added, ("part.pkl",)),
    ],
    ids=["mixed", "linked file", "linked folder", "listed above", "listed around", "listed absolute", "nested", "added"],
)
def test_an_artifact_that_was_arranged_by_others_is_exit_9(house: House, change: Callable[[House], None], words: tuple[str, ...]) -> None:
    """Whoever moves, links or lists files: nothing is deserialised, and the line says which file."""
    kept = shutil.copytree(house.model, house.folder.parent / "kept")
    change(house)
    house.good = {}
    house.outputs = dict  # type: ignore[method-assign]  # the artifact is damaged on purpose
    house.refuses(9, "show", house.run_id, words=words, next_good=False)
    house.refuses(9, "batch-inference", "--run-id", house.run_id, "--input", "rows.csv", "--output", "o.csv", words=words, next_good=False)
    assert not (house.folder / "o.csv").exists()
    assert not (house.folder / "pwned").exists()
    shutil.rmtree(house.model)
    shutil.copytree(kept, house.model)
    house.works()


def test_an_archive_is_no_artifact(house: House) -> None:
    """Nothing is ever unpacked: a zip whose members lead outside is not opened by any door."""
    import zipfile

    import recipeline
    from recipeline.errors import RecipelineError

    with zipfile.ZipFile(house.folder / "model.zip", "w") as archive:
        for path in house.model.rglob("*"):
            archive.write(path, path.relative_to(house.model))
        archive.writestr("../../slipped", "x")
    with pytest.raises(RecipelineError) as caught:
        recipeline.load(house.folder / "model.zip")
    assert caught.value.code in {2, 5, 9}
    for source in ("zip://x.csv::model.zip", "zip://model.zip", "tar://x::model.zip", "model.zip"):
        house.refuses(
            5 if source == "model.zip" else 4, "batch-inference", "--run-id", house.run_id, "--input", source, "--output", "o.csv",
            next_good=False,
        )  # fmt: skip
    assert not (house.folder.parent / "slipped").exists()
    assert not (house.folder.parent.parent / "slipped").exists()
    house.works()


# --- environment ----------------------------------------------------------------------------------------------------------------


def test_an_unset_variable_is_exit_3_with_variable_and_key(house: House) -> None:
    """Only when the command needs the value."""
    (house.folder / "config" / "base.yaml").write_text("mlflow: {tracking_uri: '${NOT_SET_ANYWHERE}'}\n")
    answer = house.command("train", "--recipe-file", "good.yaml")
    assert answer.code == 3
    assert "NOT_SET_ANYWHERE" in answer.err
    assert "mlflow.tracking_uri" in answer.err
    assert house.command("validate", "--recipe-file", "good.yaml").code == 0  # tracks nothing


def test_production_takes_no_local_store_and_no_open_door(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite, or no keys: exit 3."""
    monkeypatch.setenv("APP_ENV", "prod")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    house.refuses(3, "train", "--recipe-file", "good.yaml", words=("mlflow.tracking_uri",), next_good=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    house.refuses(3, "serve-api", "--run-id", house.run_id, words=("api_serving.auth.keys", "RECIPELINE_API_KEY_SHA256"), next_good=False)
    monkeypatch.delenv("APP_ENV")
    house.works()


def test_an_environment_without_its_file_is_exit_3(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ENV", "porduction")
    house.refuses(3, "train", "--recipe-file", "good.yaml", words=("config/porduction.yaml",), next_good=False)
