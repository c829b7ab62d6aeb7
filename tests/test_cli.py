"""The commands: what they answer, on which stream, with which exit code."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipeline import cli, console, resilience

pytestmark = pytest.mark.xdist_group("cli")  # one trained project, copied for each test that wants a run

QUICKSTART = "recipes/quickstart/quickstart.yaml"
COMMANDS = ["train", "batch-inference", "serve-api", "validate", "list", "show", "compare", "init", "schema", "doctor", "sync", "export"]
ERROR = re.compile(r"error\[[a-z0-9-]+\](: | ).+")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Path:
    """The store and the artifacts of one quickstart."""
    import recipeline
    from recipeline import settings

    folder = tmp_path_factory.mktemp("cli") / "project"
    shutil.copytree(Path(__file__).parents[1] / "recipes" / "quickstart", folder / "recipes" / "quickstart")
    (folder / "recipes" / "data").mkdir()
    shutil.copy(recipe_data / "breast_cancer.csv", folder / "recipes" / "data")
    shutil.copy(empty_store, folder / "mlflow.db")
    recipeline.train(folder / QUICKSTART, settings=settings.load(project=folder, environ={}))
    return folder


@pytest.fixture
def run_id(project: Path, finished: Path) -> str:
    """A finished quickstart in the project of the test."""
    shutil.copy(finished / "mlflow.db", project)
    shutil.copytree(finished / "mlruns", project / "mlruns")
    (run,) = (project / "mlruns" / "0").iterdir()
    return run.name


def refused(answer: Any, code: int, *words: str) -> None:
    """One error line with the words asked for, on stderr; no traceback, no path of this machine."""
    assert answer.code == code, answer
    lines = [line for line in answer.err.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT", line)]
    assert lines
    assert all(ERROR.match(line) for line in lines), answer
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err, answer
    if answer.out:
        error = answer.json["error"]
        assert {"slug", "message"} <= set(error)
        assert f"error[{error['slug']}]" in answer.err


# --- help and wrong use ----------------------------------------------------------------------------------------------------


def test_help_of_every_command(command: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    """`--help` of the whole names every command, that of a command its options; exit 0, on stdout."""
    for arguments in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            cli.main([*arguments, "--help"])
        assert caught.value.code == 0
        said = capfd.readouterr()
        assert said.err == ""
        assert said.out.startswith(f"usage: recipeline {' '.join(arguments)}".rstrip())
        assert all(name in said.out for name in (["--json", "--set", "--debug"] if arguments else COMMANDS))


def test_the_three_ways_to_call_it_are_the_same(project: Path) -> None:
    """`main.py`, `python -m recipeline` and the installed command."""
    root = Path(__file__).parents[1]
    ways = [[root / "main.py"], ["-m", "recipeline"], ["-c", "import sys; from recipeline.cli import main; sys.exit(main())"]]
    said = [
        subprocess.run([sys.executable, *way, "--version"], capture_output=True, text=True, check=True, cwd=project).stdout for way in ways
    ]
    assert said[0].startswith("recipeline ")
    assert len(set(said)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "recipeline --help"]),
        (["trian"], ["there is no trian", "did you mean train?"]),
        (["list", "prats"], ["did you mean parts?", "recipeline list --help"]),
        (["train"], ["--recipe-file", "recipeline train --help"]),
        (["train", "--recipe-file"], ["--recipe-file"]),
        (["train", "--recipe-fil", QUICKSTART], ["--recipe-file"]),  # no guessing of abbreviations
        (["train", "--recipe-file", QUICKSTART, "--jsno"], ["--jsno"]),
        (["train", "--recipe-file", QUICKSTART, "--set", "logging.level"], ["logging.level", "section.key=value"]),
        (["serve-api"], ["--run-id", "--recipe-file"]),
        (["serve-api", "--run-id", "latest", "--recipe-file", QUICKSTART], ["not allowed with"]),
        (["serve-api", "--run-id", "latest", "--port", "http"], ["--port", "http"]),
        (["export", "--run-id", "latest", "--format", "nix", "--output", "x"], ["nix"]),
        (["batch-inference", "--run-id", "latest", "--output", "x.docx"], []),
    ],
)
def test_wrong_use_is_exit_2(command: Callable[..., Any], run_id: str, arguments: list[str], words: list[str]) -> None:
    """In the one error form, with where to look."""
    refused(command(*arguments), 2, *words)


@pytest.mark.parametrize("text", ['{"a":', "[1]", "7", "a=1", "", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}', '"x"'])
@pytest.mark.parametrize("name", ["train", "batch-inference"])
def test_parameters_that_are_not_a_json_object_are_exit_2(command: Callable[..., Any], name: str, text: str) -> None:
    """Before anything is read."""
    rest = ["--recipe-file", "nowhere.yaml"] if name == "train" else ["--run-id", "0123"]
    refused(command(name, *rest, "--context-params", text, "--json"), 2, "--context-params")


@pytest.mark.parametrize(
    "reference",
    ["../../x", "..%2F..%2Fx", "%252e%252e%252fx", "....//....//x", "/etc", "a/b", "a\\b", "", " ", "x\0y", "models:/../x@y", "*"],
)
@pytest.mark.parametrize("name", ["batch-inference", "show", "serve-api"])
def test_what_is_no_reference_to_a_run_is_exit_2(command: Callable[..., Any], name: str, reference: str) -> None:
    """Paths, encoded and doubled ones, never reach the file system."""
    more = ["--set", "api_serving.enabled=true"] if name == "serve-api" else []
    refused(command(name, *([] if name == "show" else ["--run-id"]), reference, *more, "--json"), 2)


# --- runs ------------------------------------------------------------------------------------------------------------------


def test_an_unknown_run_is_exit_5(command: Callable[..., Any], run_id: str) -> None:
    """With the runs that there are."""
    for arguments in (
        ["batch-inference", "--run-id", "0123456789"],
        ["show", "0123456789"],
        ["export", "--run-id", "f00", "--format", "x", "--output", "y"],
    ):
        answer = command(*arguments, "--json")
        if arguments[0] == "export":
            refused(answer, 2)  # no plugin brings a format here
        else:
            refused(answer, 5, "unknown-run", run_id[:12], "quickstart")
    refused(command("batch-inference", "--run-id", "latest", "--name", "quickstrat"), 5, "did you mean quickstart?")


def test_train_says_one_line_or_one_object(command: Callable[..., Any], project: Path) -> None:
    """The answer on stdout, everything else on stderr; the object has what is promised."""
    said = command("train", "--recipe-file", QUICKSTART)
    assert said.code == 0, said
    assert re.fullmatch(
        r"run [0-9a-f]{8}  accuracy 0\.\d+  roc_auc \S+  f1 \S+  report mlruns/0/[0-9a-f]{32}/artifacts/model/report\.html\n", said.out
    )
    assert "phase fit" in said.err
    answer = command("train", "--recipe-file", QUICKSTART, "--json", "--set", "logging.format=json")
    assert answer.out.count("\n") == 1
    assert {"run_id", "name", "metrics", "baselines", "best_params", "artifact", "seconds"} <= set(answer.json)
    assert all(isinstance(value, float) for value in answer.json["metrics"].values())
    assert set(answer.json["baselines"]["dummy"]) == {"accuracy", "roc_auc", "f1"}
    assert Path(answer.json["artifact"], "manifest.json").is_file()
    records = [json.loads(line) for line in answer.err.splitlines()]
    assert {record["run_id"] for record in records if record["run_id"]} == {answer.json["run_id"]}


def test_batch_inference_says_what_it_did(command: Callable[..., Any], project: Path, run_id: str) -> None:
    """`{run_id, rows, output, already_done}`; the same again is already done, other rows are in the way, `--overwrite` replaces."""
    asked = ("batch-inference", "--run-id", run_id[:10], "--input", "recipes/data/breast_cancer_new.csv", "--output", "out/p.csv")
    first = command(*asked, "--json")
    assert first.code == 0, first
    assert first.out.count("\n") == 1
    assert first.json == {"run_id": run_id, "rows": 60, "output": "out/p.csv", "already_done": False}
    written = (project / "out" / "p.csv").read_bytes()
    assert command(*asked, "--json").json["already_done"] is True
    assert command(*asked).out == "already done  out/p.csv\n"
    other = (*asked[:4], "recipes/data/breast_cancer.csv", *asked[5:])
    refused(command(*other), 8, "other-output", "--overwrite")
    assert (project / "out" / "p.csv").read_bytes() == written
    assert command(*other, "--overwrite").out == "509 rows  out/p.csv\n"
    assert (project / "out" / "p.csv").read_bytes() != written


def test_the_rows_of_training_are_scored_again(command: Callable[..., Any], project: Path, run_id: str) -> None:
    """`--evaluate` on rows with a target; without one it is a data error."""
    answer = command("batch-inference", "--run-id", "latest", "--output", "p.parquet", "--evaluate", "--json")
    assert answer.code == 0, answer
    assert answer.json["metrics"]["accuracy"] > 0.97
    unknown = (
        "batch-inference",
        "--run-id",
        "latest",
        "--input",
        "recipes/data/breast_cancer_new.csv",
        "--output",
        "q.parquet",
        "--evaluate",
    )
    refused(command(*unknown), 5, "diagnosis")


@pytest.mark.parametrize("what", ["parts", "tasks", "metrics", "runs"])
def test_list(command: Callable[..., Any], run_id: str, what: str) -> None:
    """A table with a head, or the rows."""
    said, answer = command("list", what), command("list", what, "--json")
    assert said.code == answer.code == 0
    rows = answer.json[what]
    assert rows
    assert len(said.out.splitlines()) == len(rows) + 1
    expected = {
        "parts": {"role": "loader", "name": "default_loader", "distribution": "recipeline"},
        "tasks": {"name": "classification", "validation": "train_test_split"},
        "metrics": {"task": "regression", "metric": "rmse", "direction": "minimize"},
        "runs": {"run_id": run_id, "name": "quickstart", "status": "FINISHED"},
    }[what]
    assert any(expected.items() <= row.items() for row in rows)


def test_show_a_run_and_a_recipe(command: Callable[..., Any], run_id: str) -> None:
    """As YAML for people, as an object for programs."""
    answer = command("show", run_id, "--json")
    assert answer.code == 0, answer
    assert answer.json["run_id"] == run_id
    assert answer.json["metrics"]["accuracy"] > 0.9
    assert len(answer.json["features"]) == 30
    assert f"run_id: {run_id}" in command("show", "latest").out
    recipe = command("show", QUICKSTART, "--json").json["recipe"]
    assert recipe["seed"] == 42
    assert recipe["model"]["hyperparameters"] == {"max_iter": 1000}
    refused(command("show", "nowhere.yaml"), 3, "nowhere.yaml")


def test_validate(command: Callable[..., Any], project: Path) -> None:
    """`{ok, errors: [{slug, file, line, column, key, message, suggestion}]}`; every mistake at once, sorted; exit 3."""
    good = command("validate", "--recipe-file", QUICKSTART, "--json")
    assert (good.code, good.json) == (0, {"ok": True, "errors": []})
    text = (project / QUICKSTART).read_text()
    text = text.replace("max_iter", "max_itr").replace("test_size: 0.2", "test_size: 0.2, seeed: 1").replace("[accuracy,", "[acuracy,")
    (project / "bad.yaml").write_text(text)
    bad = command("validate", "--recipe-file", "bad.yaml", "--json")
    assert bad.code == 3
    assert bad.json["ok"] is False
    assert set(bad.json) == {"ok", "errors"}
    assert [(one["line"], one["suggestion"]) for one in bad.json["errors"]] == [(5, "max_iter"), (10, "accuracy"), (11, None)]
    assert all(set(one) == {"slug", "file", "line", "column", "key", "message", "suggestion"} for one in bad.json["errors"])
    lines = bad.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error[") and " bad.yaml:" in line for line in lines)
    trained = command("train", "--recipe-file", "bad.yaml", "--json")
    assert trained.code == 3
    assert [one["line"] for one in trained.json["error"]["errors"]] == [5, 10, 11]
    assert trained.err.splitlines() == lines


def test_validate_fast_knows_the_grammar_only(command: Callable[..., Any], project: Path) -> None:
    """What needs a class is left to the whole look; what does not is found in milliseconds."""
    text = (project / QUICKSTART).read_text()
    (project / "argument.yaml").write_text(text.replace("max_iter", "max_itr"))
    assert command("validate", "--recipe-file", "argument.yaml", "--fast").code == 0
    (project / "key.yaml").write_text(text.replace("hyperparameters", "hyperparametres"))
    refused(command("validate", "--recipe-file", "key.yaml", "--fast"), 3, "did you mean hyperparameters?")


def test_validate_reads_no_data(command: Callable[..., Any], project: Path) -> None:
    """A recipe whose data are not there is sound all the same; training it is a data error."""
    (project / "recipes" / "data" / "breast_cancer.csv").unlink()
    assert command("validate", "--recipe-file", QUICKSTART).code == 0
    refused(command("train", "--recipe-file", QUICKSTART), 5, "breast_cancer.csv")


def test_local_does_not_serve(command: Callable[..., Any], run_id: str) -> None:
    """Exit 4, and the two ways out."""
    refused(command("serve-api", "--run-id", run_id, "--json"), 4, "APP_ENV", "--set api_serving.enabled=true")


# --- exit codes and streams --------------------------------------------------------------------------------------------------


def test_a_bug_of_ours_is_exit_70_without_a_traceback(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its traceback is shown with --debug, or with LOG_LEVEL=DEBUG, and never without."""
    monkeypatch.setattr("recipeline.catalogue.listing", lambda *_: 1 / 0)
    refused(command("list", "parts", "--json"), 70, "ZeroDivisionError", "--debug")
    shown = command("list", "parts", "--debug")
    assert shown.code == 70
    assert "Traceback" in shown.err
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert "Traceback" in command("list", "parts").err


@pytest.mark.parametrize(("raised", "code"), [(MemoryError(), 7), (KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 7)])
def test_what_the_system_says_has_its_own_code(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    """Out of memory, out of disk, interrupted."""

    def listing(*_: object) -> None:
        raise raised

    monkeypatch.setattr("recipeline.catalogue.listing", listing)
    refused(command("list", "parts", "--json"), code)


def test_a_server_that_is_away_is_exit_6(command: Callable[..., Any], project: Path) -> None:
    """Worth another try; asked a few times first."""
    with resilience.without_waiting():
        answer = command("batch-inference", "--run-id", "0123", "--set", "mlflow.tracking_uri=http://127.0.0.1:9")
    refused(answer, 6, "127.0.0.1:9", "try again")


def test_whoever_stops_reading_is_not_an_error(process: Callable[..., Any], project: Path) -> None:
    """`recipeline list metrics | head -1` ends quietly."""
    command = f"{sys.executable} -m recipeline list metrics | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("task")


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, cli._Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_python_drops_stops_the_next_step(number: int, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception inside of a destructor goes nowhere; the work asks again at each of its steps. Afterwards all is as it was."""
    dropped: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: dropped.append(about.exc_type))

    class Last:
        def __del__(self) -> None:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with cli._Signals() as signals:
        bars = console.Bars(enabled=False, goes_on=signals.goes_on)
        bars.advance(1, 2, "folds")
        last = Last()
        del last
        assert dropped == [kind]
        with pytest.raises(kind):
            bars.advance(2, 2, "folds")
    assert signal.getsignal(number) is before


def test_a_secret_in_a_parameter_is_not_repeated(command: Callable[..., Any], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords of the configuration are masked in errors."""
    monkeypatch.setenv("SQL_CONNECTION_URI", "postgresql://me:s3cr3t-w0rd@127.0.0.1:9/none?connect_timeout=1")
    answer = command("train", "--recipe-file", "recipes/tabular/breast_cancer_tuned.yaml", "--json")
    assert answer.code in {3, 6}, answer
    assert "s3cr3t-w0rd" not in answer.out + answer.err


@pytest.mark.parametrize("library", ["fastapi", "httptools"])
def test_a_command_whose_extra_is_not_installed_names_it(project: Path, library: str) -> None:
    """In the base install `serve-api` says what to install (exit 3); it is no bug of ours."""
    # None in sys.modules is what Python itself keeps for a library that cannot be imported.
    arguments = ["serve-api", "--run-id", "latest", "--set", "api_serving.enabled=true", "--json"]
    program = f"import sys; sys.modules[{library!r}] = None; from recipeline.cli import main; sys.exit(main({arguments!r}))"
    refused = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True, check=False)
    assert refused.returncode == 3, refused
    assert f"error[missing-library]: {library} is not installed; pip install 'recipeline[serving]'" in refused.stderr
    assert json.loads(refused.stdout.splitlines()[-1])["error"]["slug"] == "missing-library"
