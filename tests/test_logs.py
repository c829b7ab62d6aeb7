"""One log format: levels, run ids, JSON, a copy in a file, and no secret in any of it."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipeline import logs
from recipeline.errors import UsageError

log = logging.getLogger("recipeline.something")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Logging as it was before, and no secrets left over."""
    root = logging.getLogger()
    level, levels = root.level, {name: logging.getLogger(name).level for name in (*logs.NOISY, "recipeline", "urllib3.connectionpool")}
    logs.forget_secrets()
    yield
    logs.close()
    logs.forget_secrets()
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_a_record_has_time_level_logger_and_run(stream: io.StringIO) -> None:
    """One line, in UTC, the same for every command."""
    logs.configure(stream=stream, environ={})
    log.info("before")
    with logs.run("7f3c21aa99887766"):
        log.warning("phase %s", "fit", extra={"rows": 3})
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    recipeline\.something before", first)
    assert second.endswith("Z WARNING recipeline.something run=7f3c21aa phase fit rows=3")


def test_json_records_are_one_object_each(stream: io.StringIO) -> None:
    """With the whole run id, extra fields, and the traceback in one string."""
    logs.configure(format="json", stream=stream, environ={})
    with logs.run("7f3c21aa99887766"):
        try:
            raise ValueError("a\nb")
        except ValueError:
            log.exception("it %s", "broke", extra={"rows": 3, "share": float("nan"), "names": ("a", "b")})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (record["level"], record["logger"], record["run_id"]) == ("ERROR", "recipeline.something", "7f3c21aa99887766")
    assert (record["message"], record["rows"], record["names"]) == ("it broke", 3, ["a", "b"])
    assert record["exception"].startswith("Traceback")
    assert record["exception"].endswith("ValueError: a\nb")


def test_a_line_break_in_a_value_forges_no_record(stream: io.StringIO) -> None:
    """Whatever a request or a file contains, only records begin at the first column."""
    logs.configure(stream=stream, environ={})
    log.info("user said %s", "hi\r\n2026-01-01T00:00:00.000Z ERROR   recipeline all is lost")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("    2026")


@pytest.mark.parametrize(("level", "environ", "shown"), [
    (None, {}, "IWE"), ("warning", {}, "WE"), ("ERROR", {"LOG_LEVEL": "debug"}, "DIWE"), ("DEBUG", {"LOG_LEVEL": "ERROR"}, "E"),
])  # fmt: skip
def test_the_environment_goes_before_the_configuration(stream: io.StringIO, level: str | None, environ: dict[str, str], shown: str) -> None:
    """LOG_LEVEL, then what the command says, then INFO."""
    logs.configure(level, stream=stream, environ=environ)
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(severity, "x")
    assert "".join(line.split()[1][0] for line in stream.getvalue().splitlines()) == shown


def test_a_level_that_does_not_exist_is_wrong_use() -> None:
    """With the nearest one; a format too."""
    with pytest.raises(UsageError, match="did you mean DEBUG"):
        logs.configure(environ={"LOG_LEVEL": "debgu"})
    with pytest.raises(UsageError, match="log format xml"):
        logs.configure(format="xml", environ={})


def test_noisy_libraries_are_heard_from_warning_on(stream: io.StringIO) -> None:
    """What they tell at INFO is theirs."""
    logs.configure(stream=stream, environ={})
    logging.getLogger("alembic.runtime.migration").info("noise")
    logging.getLogger("mlflow.store").warning("signal")
    assert "noise" not in stream.getvalue()
    assert "signal" in stream.getvalue()


def test_configuring_again_replaces_what_was(stream: io.StringIO) -> None:
    """No record twice."""
    other = io.StringIO()
    logs.configure(stream=other, environ={})
    logs.configure(stream=stream, environ={})
    log.info("once")
    assert stream.getvalue().count("once") == 1
    assert other.getvalue() == ""


def test_warnings_become_records(stream: io.StringIO) -> None:
    """A library's warning has the format of everything else."""
    logs.configure(stream=stream, environ={})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
    assert re.search(r"Z WARNING py\.warnings .*mind the gap", stream.getvalue())


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_reaches_a_record(stream: io.StringIO, form: str) -> None:
    """Not by message, argument, extra field, traceback or cause; not percent-encoded; not with a quote in it."""
    secrets = ["hunter2!", 'quo"te\\secret', "per cent/secret", "line\nbreak"]
    logs.configure(format=form, secrets=secrets, stream=stream, environ={})
    for secret in secrets:
        try:
            try:
                raise OSError(f"inner {secret}")
            except OSError as inner:
                raise ValueError(f"outer {secret}") from inner
        except ValueError:
            log.exception("message %s", secret, extra={"field": secret, "nested": {"deep": [secret], secret: 1}})
    log.info("written %r and %s", secrets[1], json.dumps(secrets[1]))
    log.info("https://x/?q=per%20cent%2Fsecret&r=per+cent%2Fsecret")
    text = stream.getvalue()
    plain = text if form == "text" else "\n".join(str(list(json.loads(line).values())) for line in text.splitlines())
    for trace in ("hunter2", 'quo"te', "te\\secret", "cent/secret", "line\nbreak", "line\n    break", "line\\nbreak", "%2Fsecret"):
        assert trace not in text
        assert trace not in plain
    assert text.count(logs.MASK) >= 20


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:p@ss:w@h/db, http://user:abc@h:5000", "postgresql://u:***@h/db, http://user:***@h:5000"),
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("https://h/x?sig=abc&y=1", "https://h/x?sig=***&y=1"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("Bearer abcdefghijkl", "Bearer ***"),
        ('{"password": "abc def", "n": 1}', '{"password": ***, "n": 1}'),
        ("MLFLOW_TRACKING_TOKEN=abc, next", "MLFLOW_TRACKING_TOKEN=***, next"),
        ("aws_secret_access_key: abc", "aws_secret_access_key: ***"),
        ("http://localhost:5000/a@b", "http://localhost:5000/a@b"),
        ("a basic regression with max_tokens=5 at me@x.org", "a basic regression with max_tokens=5 at me@x.org"),
        ("see http://a:1/x and mail me@x.org", "see http://a:1/x and mail me@x.org"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, masked: str) -> None:
    """Passwords in URIs and values beside a secret's name, known or not."""
    assert logs.mask(text) == masked


@given(st.text(min_size=4, max_size=30), st.text(max_size=40), st.text(max_size=40))
def test_a_registered_secret_is_gone_whatever_stands_around_it(secret: str, before: str, after: str) -> None:
    """Also where secrets contain each other."""
    logs.forget_secrets()
    logs.register_secret(secret, secret + secret, secret[:4])
    assert secret not in logs.mask(before + secret + after).replace(logs.MASK, "") or secret in before + after


def test_a_secret_does_not_hide_what_stands_beside_another() -> None:
    """Whatever overlaps is masked from the first character to the last."""
    logs.register_secret("pass", "hunter2", "me:hunter")
    assert logs.mask("password: swordfish") == "***word: ***"
    assert logs.mask("postgresql://me:hunter2hunter@host/db") == "postgresql://***@host/db"
    assert logs.mask("hunter2 and hunter2") == "*** and ***"


def test_short_values_are_no_secrets() -> None:
    """Masking every `1` would hide the log and protect nothing."""
    logs.register_secret("1", "abc", "")
    assert logs.mask("1 abc") == "1 abc"


def test_masking_a_megabyte_takes_no_noticeable_time() -> None:
    """No pattern goes back and forth over a long text."""
    import time

    text = ("a-" * 250_000) + ("x" * 250_000) + "://" * 80_000
    started = time.process_time()
    logs.mask(text)
    assert time.process_time() - started < 5.0


# --- the run's own log -----------------------------------------------------------------------------------------------


def test_a_run_keeps_its_log_from_the_first_record_on(tmp_path: Path) -> None:
    """Also what was said before it had a folder, also without `configure`, and a resumed run goes on in the same file."""
    path = tmp_path / "work" / "log.txt"
    for attempt in ("first", "second"):
        with logs.keep() as kept, logs.run("abcd1234"):
            log.info("early %s", attempt)
            kept.follow(path)
            log.info("late %s", attempt)
            assert logs.tail() == path.read_text()
    said = [line.split("run=abcd1234 ")[1] for line in path.read_text().splitlines()]
    assert said == ["early first", "late first", "early second", "late second"]
    assert logs.tail() == ""


def test_what_is_kept_in_addition_is_not_shown_in_addition(stream: io.StringIO, tmp_path: Path) -> None:
    """stderr at ERROR, log.txt at INFO; afterwards all is as before."""
    logs.configure("ERROR", stream=stream, environ={})
    with logs.keep(tmp_path / "log.txt"):
        log.info("detail password=abcd")
        log.error("trouble")
    log.info("after")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["trouble"]
    kept = (tmp_path / "log.txt").read_text()
    assert "detail password=***" in kept
    assert "trouble" in kept
    assert "after" not in kept
    assert not log.isEnabledFor(logging.INFO)


def test_worker_threads_belong_to_the_only_run() -> None:
    """With two runs at once a thread that belongs to neither names none."""
    seen: list[str] = []

    def ask() -> None:
        thread = threading.Thread(target=lambda: seen.append(logs.current_run()))
        thread.start()
        thread.join()

    ask()
    with logs.run("one"):
        ask()
        with logs.run("two"):
            ask()
            assert logs.current_run() == "two"
    assert seen == ["", "one", ""]


def test_a_warning_that_libraries_repeat_is_one_line_once_in_a_run(stream: io.StringIO) -> None:
    """On one line and without a path of this machine; the next run hears it again."""

    def noise() -> None:
        for number in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                name = "/home/somebody/lib/python3.11/site-packages/sklearn/linear_model/_logistic.py"
                said = "penalty was deprecated in 1.8\n  and goes in 1.10;\nleave it out"
                warnings.warn_explicit(said, FutureWarning, name, 400 + number)
                warnings.warn("of our own", UserWarning, stacklevel=1)

    logs.configure(stream=stream, environ={})
    with logs.keep() as kept:
        for run in ("aaaaaaaa11", "bbbbbbbb22"):
            with logs.run(run):
                noise()
        text = kept.text()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert text.splitlines() == lines
    first, second, third, _ = lines
    told = "FutureWarning: penalty was deprecated in 1.8 and goes in 1.10; leave it out (sklearn/linear_model/_logistic.py:400)"
    assert first.endswith(f"WARNING py.warnings run=aaaaaaaa {told}")
    assert re.search(r"UserWarning: of our own \(test_logs\.py:\d+\)$", second)
    assert third.endswith(f"run=bbbbbbbb {told}")
    assert "somebody" not in stream.getvalue()
