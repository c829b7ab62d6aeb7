"""Mistakes that people make in their first hour: each is one line that names the cause and what to do."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recipeline import console, document, projects

RECIPE = "recipes/x.yaml"


@pytest.fixture
def first(project: Path) -> Path:
    """A new project in a folder of its own, with the migrated store of the tests."""
    folder = project.parent / "first"
    projects.create(folder)
    (project / "mlflow.db").rename(folder / "mlflow.db")
    return folder


@pytest.fixture
def train(first: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Train the first recipe of the project after the text in it was changed: `train(("churned", "churn"))`."""
    monkeypatch.chdir(first)

    def run(*changes: tuple[str, str]) -> Any:
        text = (first / projects.FIRST).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (first / RECIPE).write_text(text)
        return command("train", "--recipe-file", RECIPE)

    return run


def rewritten(first: Path, change: Callable[[list[str]], list[str]], *, delimiter: str = ",", encoding: str = "utf-8") -> None:
    """data/x.csv: the customers, each row and the header changed."""
    with (first / "data/customers.csv").open(newline="") as source, (first / "data/x.csv").open("w", newline="", encoding=encoding) as out:
        csv.writer(out, delimiter=delimiter).writerows(change(row) for row in csv.reader(source))


def error_of(answer: Any) -> str:
    """The one line of error; everything before it is log."""
    lines = [line for line in answer.err.splitlines() if line.startswith("error")]
    assert len(lines) == 1, answer
    return str(lines[0])


@pytest.mark.parametrize(
    ("delimiter", "encoding", "said"),
    [
        (";", "utf-8", "error[separator]: data/x.csv: has values separated by semicolons, not by commas: its header is 'customer_id;age"),
        ("\t", "utf-8", "separated by tabs, not by commas"),
        ("|", "utf-8", "separated by bars, not by commas"),
        (",", "utf-16", "error[bad-csv]: data/x.csv:1: is UTF-16; save it as UTF-8"),
    ],
)
def test_a_table_that_is_written_otherwise(train: Callable[..., Any], first: Path, delimiter: str, encoding: str, said: str) -> None:
    """Semicolons of Excel, tabs, UTF-16: the file is named, and how to save it."""
    rewritten(first, list, delimiter=delimiter, encoding=encoding)
    answer = train(("customers.csv", "x.csv"))
    assert answer.code == 5
    assert said in error_of(answer)


def test_the_byte_order_mark_of_excel_is_no_mistake(train: Callable[..., Any], first: Path) -> None:
    """ "CSV UTF-8" begins with one; the same numbers come out."""
    rewritten(first, list, encoding="utf-8-sig")
    assert train(("customers.csv", "x.csv")).out.split("report")[0].split()[2:] == train().out.split("report")[0].split()[2:]


def test_spaces_in_the_header_are_shown(train: Callable[..., Any], first: Path) -> None:
    """`did you mean  churned?` would tell nobody anything."""
    rewritten(first, lambda row: [f" {value}" if value == "churned" else value for value in row])
    assert error_of(train(("customers.csv", "x.csv"))).endswith("did you mean ' churned'?")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("age", "?", "column 'age' is taken for text because of '?'"),
        ("customer_id", None, "column 'customer_id' has 400 different texts in 400 rows, and becomes 400 columns"),
    ],
)
def test_a_text_that_is_no_category_is_warned_of_once(
    train: Callable[..., Any], first: Path, column: str, value: str | None, said: str
) -> None:
    """Before the first fit, once, although a search fits it many times."""
    place = projects.COLUMNS.index(column)
    rewritten(first, lambda row: [value if value and at == place and row[0].endswith("7") else cell for at, cell in enumerate(row)])
    answer = train(
        ("customers.csv", "x.csv"), (", entity_cols: [customer_id]", ""), ("max_iter: 1000", "C: {type: float, low: 0.1, high: 1}"),
        ("evaluation:", "hyperparameter_tuning: {n_trials: 2, folds: 2}\nevaluation:"),
    )  # fmt: skip
    assert answer.code == 0, answer
    assert answer.err.count(said) == 1


def test_a_rare_class_is_told_without_the_words_of_a_library(train: Callable[..., Any], first: Path) -> None:
    """How many rows it has, and what to do."""
    rewritten(first, lambda row: row if row[0] == "customer_id" else [*row[:-1], "yes" if row[0] == "C0001" else "no"])
    answer = train(("customers.csv", "x.csv"))
    assert answer.code == 5
    assert "the rarest class of the target has 1 row, too few" in error_of(answer)


@pytest.mark.parametrize(
    ("model", "twin"),
    [("linear_model.Ridge", "RidgeClassifier"), ("ensemble.RandomForestRegressor", "RandomForestClassifier"), ("svm.SVR", None)],
)
def test_a_regressor_is_no_classifier(train: Callable[..., Any], model: str, twin: str | None) -> None:
    """Its fractions would be cut to classes, and the score look like one."""
    answer = train(("linear_model.LogisticRegression", model), ("{max_iter: 1000}", "{}"), ("accuracy, roc_auc, f1", "accuracy"))
    assert answer.code == 3
    said = error_of(answer)
    assert f"{model.partition('.')[2]} is a regressor, and the task is classification; take a classifier" in said
    assert twin is None or f"as {twin}" in said


def test_parameters_that_nothing_takes_are_warned_of(first: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--context-params` on a file."""
    monkeypatch.chdir(first)
    answer = command("train", "--recipe-file", projects.FIRST, "--context-params", '{"day": "2024-01-01"}')
    assert answer.code == 0
    assert answer.err.count("the context parameters have no effect: data/customers.csv is a file") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "recipes/x.yaml"], "did you mean --recipe-file recipes/x.yaml?; see `recipeline train --help`"),
        (["train", "--recipe", "recipes/x.yaml"], "there is no option --recipe; did you mean --recipe-file?"),
        (["train", "--recipe=recipes/x.yaml"], "there is no option --recipe; did you mean --recipe-file?"),
        (["train", "--recipe-file", "x.yaml", "--dry-run"], "there is no option --dry-run; see `recipeline train --help`"),
        (["train", "--recipe-file", "x.yaml", "more"], "nothing takes more; see `recipeline train --help`"),
        (["batch-inference", "--run", "latest"], "there is no option --run; did you mean --run-id?"),
        (["validate", "x.yaml"], "did you mean --recipe-file x.yaml?"),
        (["serve-api", "--run-id", "latest", "--port", "80000"], "argument --port: '80000' is not a port, a number from 0 to 65535"),
        (["serve-api", "--run-id", "latest", "--port", "-1"], "'-1' is not a port"),
        (["trian"], "there is no trian; did you mean train?"),
    ],
)
def test_a_word_that_no_command_takes(command: Callable[..., Any], arguments: list[str], said: str) -> None:
    """Exit 2, with what was meant."""
    answer = command(*arguments)
    assert answer.code == 2
    assert said in error_of(answer)


def test_a_key_of_the_recipe_is_not_set_from_the_command(project: Path, command: Callable[..., Any]) -> None:
    """`--set` is for the configuration."""
    answer = command("list", "runs", "--set", "model.hyperparameters.C=1")
    assert answer.code == 3
    assert "model: unknown key; it is a key of recipes, and this is the configuration; write it in the recipe" in error_of(answer)


@pytest.mark.parametrize("name", ["My Projekt ü 1", "日本", "it's; $(here)", "123", "1e3", "null", "no", "-x"])
def test_a_project_may_have_any_name(project: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The folder is made, its configuration can be read, and the printed `cd` leads into it."""
    answer = command("init", *(["--"] if name.startswith("-") else []), name)
    assert answer.code == 0, answer
    said = subprocess.run(["sh", "-c", f"{answer.out.splitlines()[1]} && pwd"], capture_output=True, text=True, check=True)
    assert Path(said.stdout.strip()) == project / name
    monkeypatch.chdir(project / name)
    assert command("validate", "--recipe-file", projects.FIRST).code == 0


# --- what a terminal shows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_table_fits_the_terminal_and_loses_no_word(width: int) -> None:
    """Cells are broken between words; piped, a row is one line."""
    rows = [{"name": "balanced_accuracy", "direction": "maximize", "summary": "mean over the classes of the share " * 3}, {"name": "mcc"}]
    columns = ["name", "direction", "summary"]
    shown = console.table(rows, columns, width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert sorted(shown.split()) == sorted(console.table(rows, columns).split())
    assert len(console.table(rows, columns).splitlines()) == 3


def terminal(arguments: list[str], folder: Path, *, stop_at: bytes = b"", columns: int = 80, **variables: str) -> tuple[int, str]:
    """Exit code and everything written of a command on a terminal of its own; Ctrl-C when `stop_at` was written."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    with subprocess.Popen(
        [sys.executable, "-m", "recipeline", *arguments], cwd=folder, stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm", **variables}, start_new_session=True,
    ) as started:  # fmt: skip
        os.close(slave)
        written, stopped = b"", False
        while True:
            try:
                piece = os.read(master, 65_536)
            except OSError:  # Linux, when the last writer has left
                piece = b""
            if not piece:
                break
            written += piece
            if stop_at and stop_at in written and not stopped:
                stopped = True
                started.send_signal(signal.SIGINT)
        code = started.wait()
    os.close(master)
    return code, written.decode()


@pytest.fixture
def search(first: Path) -> str:
    """A recipe with a search of some trials."""
    text = (first / projects.FIRST).read_text().replace("max_iter: 1000", "C: {type: float, low: 0.1, high: 1}")
    (first / RECIPE).write_text(text.replace("evaluation:", "hyperparameter_tuning: {n_trials: 12, folds: 3}\nevaluation:"))
    return RECIPE


def test_a_search_on_a_terminal_has_a_bar_and_leaves_a_clean_one(first: Path, search: str) -> None:
    """Trials of how many, the best so far, time left; no log line is torn by the bar, and the cursor comes back."""
    code, written = terminal(["train", "--recipe-file", search], first)
    assert code == 0, written
    assert re.search(r"trials, best 0\.\d+", written)
    assert "/12" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    bare = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written).replace("\r", "\n")
    starts = [line.partition(" INFO ")[0] for line in bare.split("\n") if " INFO " in line]
    assert starts
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", start) for start in starts)
    assert bare.strip().splitlines()[-1].startswith("run ")


def test_no_colour_where_none_is_wanted(first: Path, search: str) -> None:
    """NO_COLOR: the bar moves, without colours."""
    code, written = terminal(["train", "--recipe-file", search], first, NO_COLOR="1")
    assert code == 0, written
    assert "trials, best" in written
    assert not re.search(r"\x1b\[[\d;]*3\dm", written)


def test_ctrl_c_in_a_search_is_one_line_that_says_how_to_go_on(first: Path, search: str) -> None:
    """Exit 130, the cursor back, and the same command goes on with the trials that were done."""
    code, written = terminal(["train", "--recipe-file", search], first, stop_at=b"trials, best")
    assert code == 130, written
    assert "error[interrupted]: interrupted; the same command again goes on where it stopped" in written
    assert "Traceback" not in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_quiet_where_there_is_no_terminal(train: Callable[..., Any]) -> None:
    """No bar and no escape sequence in a log file."""
    answer = train(
        ("max_iter: 1000", "C: {type: float, low: 0.1, high: 1}"), ("evaluation:", "hyperparameter_tuning: {n_trials: 2}\nevaluation:")
    )
    assert answer.code == 0
    assert "\x1b" not in answer.out + answer.err
    assert "trials, best" not in answer.err


# --- an editor --------------------------------------------------------------------------------------------------------


def test_the_schemas_take_what_we_ship_and_refuse_a_typo(project: Path, command: Callable[..., Any]) -> None:
    """A validator that editors use: every shipped recipe and configuration passes, one with any key misspelt does not."""
    validators = {}
    for what in ("recipe", "config"):
        assert command("schema", what, "--output", f"{what}.json").code == 0
        schema = json.loads((project / f"{what}.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validators[what] = jsonschema.Draft202012Validator(schema)
    shipped = [("recipe", path) for path in sorted((project / "recipes").rglob("*.yaml"))]
    shipped += [("config", path) for path in sorted((project / "config").glob("*.yaml")) if path.stem != "tsfm_models"]
    assert len(shipped) > 8
    for what, path in shipped:
        data = document.parse(path.read_text()).data
        assert list(validators[what].iter_errors(data)) == [], path
        for key in data:
            typo = {(f"{name}x" if name == key else name): value for name, value in data.items()}
            assert not validators[what].is_valid(typo), (path, key)
        for section in ("model", "evaluation", "hyperparameter_tuning", "api_serving", "logging", "mlflow"):
            if isinstance(data.get(section), dict):
                assert not validators[what].is_valid({**data, section: {**data[section], "speling": 1}}), (path, section)
