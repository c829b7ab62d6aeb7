"""The HTTP door: what is asked, what is answered, and what bad input gets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import logging
import math
import os
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import jsonschema
import numpy as np
import pandas as pd
import psutil
import pytest
import uvicorn
from pydantic import BaseModel, ConfigDict

from recipeline import measures, serve, settings
from recipeline.components.classification import Classification
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.components.regression import Regression
from recipeline.contracts import FitContext, Route
from recipeline.errors import DataError, Problem, RecipeError, Refused, Unavailable, UsageError
from recipeline.pipeline import Pipeline
from recipeline.serve.access import Guard, Keys, Limits
from recipeline.serve.answers import dumps, predictions
from recipeline.serve.application import build
from recipeline.serve.connection import Connection
from recipeline.serve.documentation import curl
from recipeline.serve.gate import Gate, State
from recipeline.serve.pool import Pool
from recipeline.serve.problems import of, public
from recipeline.serve.rows import RowReader, example
from recipeline.serve.server import Server

SEED = 20
KEY = "the-right-key-73f1"


# --- what is served ------------------------------------------------------------------------------------------------------


def customers(n: int = 120) -> pd.DataFrame:
    """One column of every kind, under names that fields of a model cannot have."""
    rng = np.random.default_rng(SEED)
    age = rng.integers(18, 90, n)
    income = rng.normal(2000.0, 500.0, n)
    score = rng.normal(size=n)
    score[::7] = np.nan
    frame = pd.DataFrame(
        {
            "customer": [f"c{i}" for i in range(n)],
            "age": age,
            "income": income,
            "_id": rng.normal(size=n),
            "model_config": score,
            "member": rng.random(n) < 0.5,
            "country": rng.choice(["dk", "kr", "nl"], n),
            "a/b~c": np.where(rng.random(n) < 0.2, None, rng.choice(["x", "y"], n)),
        }
    )
    frame["churned"] = np.where(income + 20 * age + 300 * frame["member"] > 3200, "yes", "no")
    return frame


def classifier() -> tuple[Pipeline, pd.DataFrame]:
    from sklearn.linear_model import LogisticRegression

    data = customers()
    task = Classification(Classification.Interface(task_type="classification", target_col="churned", entity_cols=["customer"]))
    schema = task.describe(data)
    pipeline = Pipeline(
        task=task, schema=schema, model=LogisticRegression(max_iter=500), preprocessor=DefaultPreprocessor(numerical_strategy="standard"),
        facts={"run_id": "0123456789abcdef", "name": "churn", "metrics": {"metrics": {"accuracy": 0.9, "x": math.nan}}, "hpo": {"n": 0}},
    )  # fmt: skip
    return pipeline.fit(task.select(data, schema, targets=True), FitContext(seed=SEED, folder=Path())), data


def numbers(model: Any = None, n: int = 400, d: int = 30) -> tuple[Pipeline, pd.DataFrame]:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(SEED)
    data = pd.DataFrame(rng.normal(size=(n, d)), columns=[f"f{i:02d}" for i in range(d)])
    data["y"] = data.sum(axis=1) + rng.normal(size=n)
    task = Regression(Regression.Interface(task_type="regression", target_col="y"))
    schema = task.describe(data)
    facts = {"run_id": "fedcba9876543210", "name": "numbers"}
    pipeline = Pipeline(task=task, schema=schema, model=model or Ridge(), preprocessor=DefaultPreprocessor(), facts=facts)
    return pipeline.fit(task.select(data, schema, targets=True), FitContext(seed=SEED, folder=Path())), data


def configured(*overrides: str, environment: str = "local", keys: tuple[str, ...] = (), **environ: str) -> settings.Settings:
    listed = [f"api_serving.auth.keys=[{', '.join(serve.hash_key(key) for key in keys)}]"] if keys else []
    return settings.load(
        project=Path(__file__).parents[1], environment=environment, environ=environ,
        overrides=["api_serving.enabled=true", *listed, *overrides],
    )  # fmt: skip


class Client:
    """Asks an application in this process, without a socket."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __call__(self, method: str, path: str, **rest: Any) -> httpx.Response:
        return asyncio.run(self.ask(method, path, **rest))

    async def ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.gate, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **rest)

    def predict(self, document: Any = None, *, raw: bytes | str | None = None, **headers: str) -> httpx.Response:
        content = json.dumps(document) if raw is None else raw
        return self("POST", "/predict", content=content, headers={"content-type": "application/json", **headers})


def client(pipeline: Pipeline, *overrides: str, **rest: Any) -> Client:
    return Client(serve.app(pipeline, configured(*overrides, **rest)))


@pytest.fixture(scope="module")
def churn() -> tuple[Pipeline, pd.DataFrame]:
    return classifier()


@pytest.fixture(scope="module")
def numeric() -> tuple[Pipeline, pd.DataFrame]:
    return numbers()


@pytest.fixture(scope="module")
def asked(churn: tuple[Pipeline, pd.DataFrame]) -> Client:
    return client(churn[0])


def record(churn: tuple[Pipeline, pd.DataFrame], row: int = 1, **changes: Any) -> dict[str, Any]:
    """A good record, and what is to be different in it; `...` takes a column away."""
    data = churn[1].drop(columns="churned").iloc[row]
    plain = {name: None if pd.isna(value) else getattr(value, "item", lambda v=value: v)() for name, value in data.items()}
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


def is_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The standard checks of a refused request."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["slug"] == slug, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:recipeline:problem:{slug}"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert {"title", "detail", "instance"} <= problem.keys()
    assert not re.search(r"Traceback|/home/|/root/|/work/|/tmp/|site-packages|\.py\b", response.text), response.text
    return problem


# --- answers -------------------------------------------------------------------------------------------------------------


def test_one_record_a_list_and_an_envelope_get_the_same_answer(churn: Any, asked: Client) -> None:
    """The three forms differ in nothing but their form."""
    one = record(churn)
    single, listed, wrapped = (asked.predict(body) for body in (one, [one], {"records": [one]}))
    assert single.status_code == 200, single.text
    assert single.json() == listed.json() == wrapped.json()
    assert single.json()["model_version"] == churn[0].version
    assert single.json()["run_id"] == churn[0].run_id


def test_an_answer_says_prediction_probabilities_and_keys_in_the_order_asked(churn: Any, asked: Client) -> None:
    """Each prediction carries its entity column, and probabilities by class."""
    order = [5, 3, 80, 1]
    answer = asked.predict([record(churn, row) for row in order]).json()["predictions"]
    assert [row["customer"] for row in answer] == [f"c{row}" for row in order]
    assert all(row.keys() == {"customer", "prediction", "probabilities"} for row in answer)
    assert all(row["probabilities"].keys() == {"no", "yes"} and row["prediction"] in {"no", "yes"} for row in answer)


@pytest.mark.parametrize("rows", [1, 2, 7, 333])
def test_the_same_rows_give_the_same_bits_as_the_library(numeric: Any, rows: int) -> None:
    """float64 in, float64 out, to the last bit, through JSON, however the library's frame was put together."""
    pipeline, data = numeric
    X = data.drop(columns="y").iloc[:rows]
    answer = client(pipeline).predict([dict(zip(X.columns, map(float, row), strict=True)) for row in X.to_numpy()])
    served = [row["prediction"].hex() for row in answer.json()["predictions"]]
    by_column = pd.DataFrame({name: X[name].to_numpy().copy() for name in X.columns})
    for frame in (X, X.copy(), by_column, X[X.columns[::-1]]):
        assert [float(value).hex() for value in pipeline.predict(frame)["prediction"]] == served


def test_a_classifier_of_mixed_columns_gives_the_same_bits_as_the_library(churn: Any, asked: Client) -> None:
    """Text, booleans, integers and nulls take the same road as numbers."""
    pipeline, data = churn
    output = pipeline.predict(data)
    answer = asked.predict([record(churn, row) for row in range(len(data))]).json()["predictions"]
    assert [row["prediction"] for row in answer] == output["prediction"].tolist()
    for name in ("no", "yes"):
        assert [row["probabilities"][name].hex() for row in answer] == [float(value).hex() for value in output[f"probability_{name}"]]


def test_floats_survive_json_both_ways() -> None:
    """Any finite float64 is read and written without losing a bit."""
    rng = random.Random(SEED)
    drawn = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(4000)]
    values = [*filter(math.isfinite, drawn), 0.0, -0.0, 5e-324, 1e22, 1 / 3]
    schema = numbers(n=20, d=1)[0].schema
    read = RowReader(schema, max_rows=10_000).read(json.dumps([{"f00": v} for v in values]).encode()).frame["f00"]
    assert [v.hex() for v in read] == [v.hex() for v in values]
    written = json.loads(dumps({"predictions": predictions(pd.DataFrame({"prediction": values}))}))["predictions"]
    assert [row["prediction"].hex() for row in written] == [v.hex() for v in values]


def test_what_json_has_not_is_null() -> None:
    """NaN, infinity and missing time stamps are null; a plugin's own columns go through under their names."""
    output = pd.DataFrame(
        {
            "series": pd.Series(["a", None], dtype=object),
            "at": pd.to_datetime(["2024-01-31T12:00:00.123456789", None]),
            "q0.1": np.array([math.inf, math.nan], dtype=np.float32),
            "count": pd.array([1, None], dtype="Int64"),
            "set": [np.arange(2), None],
            "good": [True, False],
        }
    )
    first, second = json.loads(dumps({"p": predictions(output)}))["p"]
    assert first == {"series": "a", "at": "2024-01-31T12:00:00.123456789", "q0.1": None, "count": 1, "set": [0, 1], "good": True}
    assert second == {"series": None, "at": None, "q0.1": None, "count": None, "set": None, "good": False}


def test_no_rows_are_no_predictions(asked: Client) -> None:
    """Zero rows are a question with an empty answer."""
    for body in ([], {"records": []}):
        response = asked.predict(body)
        assert (response.status_code, response.json()["predictions"]) == (200, [])


def test_numbers_have_one_kind_in_json(churn: Any, asked: Client) -> None:
    """2000 is 2000.0 where the contract says float, and 42.0 is 42 where it says integer."""
    plain = asked.predict(record(churn, income=2000.0, age=42))
    assert plain.status_code == 200
    assert asked.predict(record(churn, income=2000, age=42.0)).json() == plain.json()


def test_a_column_that_had_nulls_may_be_null_or_missing(churn: Any, asked: Client) -> None:
    """Optional means what it meant in training, and both ways of leaving a value out are one."""
    null, missing = (asked.predict(record(churn, **{"model_config": value, "a/b~c": value})) for value in (None, ...))
    assert null.status_code == 200, null.text
    assert null.json() == missing.json()


def test_keys_may_be_left_out_and_come_back_as_they_were(churn: Any, asked: Client) -> None:
    """An entity column names a row; it is never checked, and numbers stay numbers."""
    assert "customer" not in asked.predict(record(churn, customer=...)).json()["predictions"][0]
    answer = asked.predict([record(churn, customer=17), record(churn, customer=None), record(churn, customer="x")]).json()["predictions"]
    assert [row["customer"] for row in answer] == [17, None, "x"]
    is_problem(asked.predict(record(churn, customer={"a": 1})), 422, "invalid-rows")


def test_unknown_columns_are_ignored_and_counted(churn: Any, asked: Client) -> None:
    """Extra columns change no answer; a header and a measure count them; the target is none of them."""
    plain = asked.predict(record(churn))
    assert "x-ignored-columns" not in plain.headers
    more = asked.predict([record(churn, one=1, two=[{"deep": 1}], churned="yes"), record(churn, one=2, f0=3)])
    assert more.headers["x-ignored-columns"] == "3"
    assert more.json()["predictions"][0] == plain.json()["predictions"][0]


def test_time_stamps_are_iso_8601_and_nothing_else() -> None:
    """A time stamp is read to the nanosecond; epoch seconds, other formats, wrong zones and days that never were are refused."""
    data = pd.DataFrame(
        {
            "at": pd.to_datetime(["2024-01-31T12:00:00.123456789", "2024-02-01T00:00:00"], format="ISO8601"),
            "utc": pd.to_datetime(["2024-01-31", "2024-02-01"], utc=True),
        }
    )
    from recipeline.schema import InputSchema

    reader = RowReader(InputSchema.of(data, ["at", "utc"]), max_rows=10)
    good = {"at": "2024-01-31T12:00:00.123456789", "utc": "2024-01-31T01:00:00+01:00"}
    frame = reader.read(json.dumps(good).encode()).frame
    assert reader.schema.conform(frame) is not None
    assert (frame["at"].iloc[0], frame["utc"].iloc[0]) == (data["at"].iloc[0], data["utc"].iloc[0])
    reader.read(json.dumps(example(reader.schema)).encode())
    for name, wrong in [
        ("at", "1706702400"), ("at", 1706702400), ("at", "31.01.2024"), ("at", "2024-02-31"), ("at", "2024-01-31T12:00:00Z"),
        ("at", "1500-01-01"), ("utc", "2024-01-31T12:00:00"), ("utc", None), ("at", ""), ("at", "now"),
    ]:  # fmt: skip
        with pytest.raises(serve.problems.HTTPProblem) as caught:
            reader.read(json.dumps({**good, name: wrong}).encode())
        assert caught.value.errors[0]["pointer"] == f"/rows/0/{name}"


# --- rows that break the contract ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"age": "42"}, "/rows/0/age", "an integer expected, got text"),
        ({"age": 42.5}, "/rows/0/age", "an integer expected, got a fraction"),
        ({"age": 1e300}, "/rows/0/age", "64 bits"),
        ({"age": True}, "/rows/0/age", "an integer expected, got true or false"),
        ({"age": 2**63}, "/rows/0/age", "64 bits"),
        ({"age": None}, "/rows/0/age", "an integer expected, got null"),
        ({"age": ...}, "/rows/0/age", "missing"),
        ({"age": ..., "Age": 42}, "/rows/0/age", "is it 'Age'?"),
        ({"income": "2000"}, "/rows/0/income", "a number expected, got text"),
        ({"income": [1]}, "/rows/0/income", "a number expected, got a list"),
        ({"_id": None}, "/rows/0/_id", "got null"),
        ({"member": 1}, "/rows/0/member", "true or false expected, got a number"),
        ({"country": 3}, "/rows/0/country", "text expected, got a number"),
        ({"a/b~c": 3}, "/rows/0/a~1b~0c", "text or null expected, got a number"),
        ({"model_config": "x"}, "/rows/0/model_config", "a number or null expected"),
    ],
)
def test_a_value_of_another_kind_is_422_with_a_pointer(churn: Any, asked: Client, changes: Any, pointer: str, words: str) -> None:
    """The problem names row, column, what was expected and what came; the next good request succeeds."""
    problem = is_problem(asked.predict(record(churn, **changes)), 422, "invalid-rows")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert words in problem["errors"][0]["detail"], problem
    assert asked.predict(record(churn)).status_code == 200


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 400])
@pytest.mark.parametrize("column", ["income", "model_config"])
def test_numbers_that_are_not_finite_are_422(churn: Any, asked: Client, token: str, column: str) -> None:
    """Also where a number is too large for a float64, and also in a column that may be null."""
    raw = json.dumps(record(churn, **{column: "@"})).replace('"@"', token)
    problem = is_problem(asked.predict(raw=raw), 422, "invalid-rows")
    assert problem["errors"][0]["pointer"] == f"/rows/0/{column}"
    assert "finite" in problem["errors"][0]["detail"]


@pytest.mark.parametrize("form", ["list", "envelope"])
def test_a_pointer_counts_rows_whatever_the_form(numeric: Any, form: str) -> None:
    """Row 3 is /rows/3 in a list and in an envelope, and every bad row is told, up to a hundred mistakes."""
    pipeline, data = numeric
    rows = data.drop(columns="y").iloc[:6].to_dict("records")
    rows[3]["f07"] = "seven"
    rows[5]["f00"], rows[5]["f29"] = None, True
    problem = is_problem(client(pipeline).predict(rows if form == "list" else {"records": rows}), 422, "invalid-rows")
    assert [error["pointer"] for error in problem["errors"]] == ["/rows/3/f07", "/rows/5/f00", "/rows/5/f29"]
    assert (problem["errors"][0]["row"], problem["errors"][0]["column"]) == (3, "f07")
    many = is_problem(client(pipeline).predict([{}] * 300), 422, "invalid-rows")
    assert len(many["errors"]) == 100


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"", 400, "invalid-json"),
        (b"  ", 400, "invalid-json"),
        (b"{", 400, "invalid-json"),
        (b'{"a": 01}', 400, "invalid-json"),
        (b'{"a": 1}{"a": 1}', 400, "invalid-json"),
        (b"\xff\xfe{\x00}\x00", 400, "invalid-json"),
        (b'{"a": "\xe9"}', 400, "invalid-json"),
        (b'{"age": 1, "age": 2}', 400, "duplicate-key"),
        (b'{"x": {"y": 1, "y": 2}}', 400, "duplicate-key"),
        (b'{"x": ' + b"[" * 40 + b"]" * 40 + b"}", 400, "too-deep"),
        (b"[" * 200_000, 400, "too-deep"),
        (b'{"x": ' + b"9" * 5000 + b"}", 400, "invalid-json"),
        (b"3", 422, "invalid-rows"),
        (b"null", 422, "invalid-rows"),
        (b'"text"', 422, "invalid-rows"),
        (b"[1]", 422, "invalid-rows"),
        (b"[[]]", 422, "invalid-rows"),
        (b"{}", 422, "invalid-rows"),
        (b'{"records": {}}', 422, "invalid-rows"),
        (b'{"records": [], "more": 1}', 422, "unknown-key"),
    ],
    ids=lambda value: repr(value[:18]) if isinstance(value, bytes) else str(value),
)
def test_what_is_no_list_of_records_is_refused(churn: Any, asked: Client, body: bytes, status: int, slug: str) -> None:
    """400 for what is no JSON of ours, 422 for JSON that is no rows."""
    is_problem(asked.predict(raw=body), status, slug)
    assert asked.predict(record(churn)).status_code == 200


def test_lone_surrogates_are_no_text(churn: Any, asked: Client) -> None:
    """Python's parser would take them, and nothing could write them again."""
    is_problem(asked.predict(raw=json.dumps(record(churn, country="@")).replace("@", "\\ud800")), 400, "invalid-json")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin-1", "text/json"])
def test_another_content_type_is_415(churn: Any, asked: Client, kind: str) -> None:
    """Only JSON in UTF-8 is read."""
    is_problem(asked.predict(record(churn), **{"content-type": kind}), 415, "not-json")


def test_a_compressed_body_is_415(churn: Any, asked: Client) -> None:
    """A small body that unpacks to a large one does not get the chance."""
    is_problem(asked.predict(raw=gzip.compress(json.dumps(record(churn)).encode()), **{"content-encoding": "gzip"}), 415, "not-json")


def test_json_by_another_name_is_read(churn: Any, asked: Client) -> None:
    """A charset of UTF-8 and structured suffixes are JSON too."""
    for kind in ("application/json; charset=UTF-8", "application/vnd.acme+json"):
        assert asked.predict(record(churn), **{"content-type": kind}).status_code == 200


# --- limits --------------------------------------------------------------------------------------------------------------


def test_too_many_rows_are_413(numeric: Any) -> None:
    """As many as allowed are answered, one more is not."""
    pipeline, data = numeric
    few = client(pipeline, "api_serving.limits.max_rows=5")
    rows = data.drop(columns="y").to_dict("records")
    assert few.predict(rows[:5]).status_code == 200
    assert "6 rows, at most 5" in is_problem(few.predict(rows[:6]), 413, "too-many-rows")["detail"]


def test_too_many_bytes_are_413_before_anything_is_kept(churn: Any) -> None:
    """A body that announces too much is not read at all."""
    taken = []

    async def body() -> Any:
        for _ in range(1000):
            taken.append(1)
            yield b" " * 1000

    small = client(churn[0], "api_serving.limits.max_bytes=5000")
    announced = small("POST", "/predict", content=b" " * 6000, headers={"content-type": "application/json"})
    is_problem(announced, 413, "too-many-bytes")
    chunked = small("POST", "/predict", content=body(), headers={"content-type": "application/json"})
    is_problem(chunked, 413, "too-many-bytes")
    assert "content-length" not in chunked.request.headers
    assert small.gate.held == 0
    assert len(taken) < 100, "the rest is thrown away for a moment only, and never kept"


def test_a_body_that_does_not_come_is_408(churn: Any) -> None:
    """A slow client gives its place back."""
    slow = client(churn[0], "api_serving.limits.timeout=0.2")

    async def body() -> Any:
        yield b"{"
        await asyncio.sleep(0.6)
        yield b"}"

    is_problem(slow("POST", "/predict", content=body(), headers={"content-type": "application/json"}), 408, "slow-body")
    assert (slow.gate.active, slow.gate.held) == (0, 0)
    assert slow.predict(record(churn)).status_code == 200


class Held:
    """A model that answers when it is told to."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Semaphore(0)

    def fit(self, X: Any, y: Any = None) -> Held:
        return self

    def predict(self, X: Any) -> Any:
        self.begun.release()
        assert self.go.wait(20)
        return np.zeros(len(X))


def test_an_answer_that_takes_too_long_is_503_and_its_place_comes_back() -> None:
    """The client is told in time; the thread keeps its place until it is done, so that slow work cannot pile up."""
    model = Held()
    pipeline, data = numbers(model, n=20, d=2)
    pool = Pool(threads=1, waiting=1)
    gate = build(pipeline, guard=Guard(Keys()), limits=Limits(timeout=0.3), pool=pool)
    row = data.drop(columns="y").iloc[0].to_dict()
    response = Client(gate).predict(row)
    is_problem(response, 503, "timeout")
    assert response.headers["retry-after"] == "1"
    assert pool.inside == 1
    model.go.set()
    eventually(lambda: pool.inside == 0)
    assert Client(gate).predict(row).status_code == 200


def test_more_work_than_may_wait_is_503_with_retry_after() -> None:
    """One runs, one waits, the third hears at once that it should come again; the loop answers probes meanwhile."""
    model = Held()
    pipeline, data = numbers(model, n=20, d=2)
    gate = build(pipeline, guard=Guard(Keys()), limits=Limits(), pool=Pool(threads=1, waiting=1))
    row = json.dumps(data.drop(columns="y").iloc[0].to_dict())

    async def story() -> None:
        ask = Client(gate).ask
        headers = {"content-type": "application/json"}
        first = asyncio.create_task(ask("POST", "/predict", content=row, headers=headers))
        assert await asyncio.to_thread(model.begun.acquire, timeout=5)
        second = asyncio.create_task(ask("POST", "/predict", content=row, headers=headers))
        await asyncio.sleep(0.05)
        third = await ask("POST", "/predict", content=row, headers=headers)
        is_problem(third, 503, "busy")
        assert third.headers["retry-after"] == "1"
        assert (await ask("GET", "/health/live")).status_code == 200
        model.go.set()
        assert [(await task).status_code for task in (first, second)] == [200, 200]

    asyncio.run(story())


# --- errors --------------------------------------------------------------------------------------------------------------


def test_the_frameworks_own_errors_have_our_form(asked: Client) -> None:
    """404 and 405 are problems like all others."""
    is_problem(asked("GET", "/nowhere"), 404, "no-such-path")
    wrong = asked("GET", "/predict")
    is_problem(wrong, 405, "wrong-method")
    assert wrong.headers["allow"] == "POST"
    is_problem(asked("POST", "/predict/"), 404, "no-such-path")


def test_a_request_id_is_kept_where_it_is_harmless(asked: Client) -> None:
    """A client's own id comes back and reaches the log; what could forge a log line does not."""
    assert asked("GET", "/health/live", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    assert re.fullmatch("[0-9a-f]{32}", asked("GET", "/health/live", headers={"x-request-id": "a b"}).headers["x-request-id"])


class Failing:
    """A model that raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fit(self, X: Any, y: Any = None) -> Failing:
        return self

    def predict(self, X: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (ValueError("cannot open /srv/secret/model.bin with password=hunter22"), 500, "prediction-failed"),
        (DataError("series 'a' is too short, see /srv/secret/x.csv and s3://bucket/key", hint="send 24 rows"), 422, "data"),
        (Unavailable("no answer from redis://:hunter22@10.0.0.1"), 503, "unavailable"),
        (Refused("not for you"), 403, "refused"),
        (RecipeError(Problem("x", (), "in /srv/secret/recipe.yaml")), 500, "x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_error_of_the_model_tells_nothing_of_the_server(
    error: Exception, status: int, slug: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No path, address, password or traceback reaches a client; the log has the words under the request id."""
    pipeline, data = numbers(Failing(error), n=20, d=2)
    caplog.set_level(logging.INFO, logger="recipeline")
    response = client(pipeline).predict(data.drop(columns="y").iloc[0].to_dict())
    problem = is_problem(response, status, slug)
    assert not re.search("srv|hunter22|10.0.0.1|bucket", response.text)
    if status >= 500:
        assert problem["request_id"] in caplog.text
    if slug == "data":
        assert "series 'a' is too short" in problem["detail"]
        assert "send 24 rows" in problem["detail"]


def test_paths_and_addresses_are_taken_out_of_words() -> None:
    """What looks like a place on the server is left out; pointers and fractions stay."""
    assert public("cannot read /var/lib/x/y.csv now") == "cannot read … now"
    assert public("from postgresql://u:p@h/db and C:\\models\\a.bin") == "from … and …"
    assert public("1/2 of a/b and and/or") == "1/2 of a/b and and/or"


def test_a_bug_is_500_without_words_and_the_log_has_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is answered in the same form; the connection lives on."""

    class Broken(BaseModel):
        number: int

    def handler() -> Any:
        raise KeyError("/srv/secret")

    class Bringing(Held):
        routes = (Route("GET", "/broken", None, Broken, handler),)

    response = client(numbers(Bringing(), n=20, d=2)[0])("GET", "/broken")
    problem = is_problem(response, 500, "bug")
    assert "secret" not in response.text
    assert problem["request_id"] in caplog.text
    assert "KeyError" in caplog.text


def test_every_error_of_ours_has_a_status() -> None:
    """The tree of errors and HTTP agree."""
    assert [of(kind("x")).status for kind in (DataError, UsageError, Refused, Unavailable)] == [422, 400, 403, 503]


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_with_keys_only_a_right_one_opens(churn: Any) -> None:
    """Either header, any of the keys; probes need none; nothing else answers without, not even what is not there."""
    locked = client(churn[0], keys=(KEY, "another-key"))
    for headers in ({"authorization": f"Bearer {KEY}"}, {"authorization": "bearer another-key"}, {"x-api-key": KEY}):
        assert locked.predict(record(churn), **headers).status_code == 200
    for path in ("/predict", "/model/metadata", "/metrics", "/docs", "/openapi.json", "/nowhere"):
        missing = locked("GET", path)
        is_problem(missing, 401, "key-missing")
        assert missing.headers["www-authenticate"] == "Bearer"
    wrong = ({"x-api-key": "wrong"}, {"x-api-key": serve.hash_key(KEY)}, {"authorization": "Bearer "}, {"authorization": f"Bearer {KEY}x"})
    for headers in wrong:
        is_problem(locked.predict(record(churn), **headers), 401, "key-unknown")
    is_problem(locked.predict(record(churn), authorization=f"Basic {KEY}"), 401, "key-missing")
    assert locked("GET", "/health/live").status_code == 200


def test_a_refused_body_is_not_read(churn: Any) -> None:
    """Without a key not one byte of a body is kept."""
    locked = client(churn[0], keys=(KEY,))
    response = locked.predict(raw=b"x" * 100_000)
    is_problem(response, 401, "key-missing")
    assert response.headers["connection"] == "close"


def test_without_keys_only_this_machine_is_answered(churn: Any) -> None:
    """Whoever bound the socket (gunicorn on 0.0.0.0), a request that came in from outside is refused."""

    def asked_at(address: str, *, anywhere: bool = False) -> httpx.Response:
        gate = serve.app(churn[0], configured(), insecure_no_auth=anywhere)

        async def moved(scope: Any, receive: Any, send: Any) -> None:
            await gate({**scope, "server": (address, 80)}, receive, send)

        return Client(moved)("GET", "/model/metadata")  # type: ignore[arg-type]

    is_problem(asked_at("10.0.0.5"), 403, "no-keys")
    is_problem(asked_at("2001:db8::1"), 403, "no-keys")
    assert asked_at("10.0.0.5", anywhere=True).status_code == 200
    assert asked_at("127.0.0.9").status_code == asked_at("::1").status_code == 200


def test_a_key_written_down_instead_of_its_digest_is_an_error() -> None:
    """It would open nothing, and it would stand in a file."""
    with pytest.raises(RecipeError, match="SHA-256"):
        Keys(["my-secret-key"])
    assert Keys(["sha256:" + serve.hash_key("a")]).open(b"a")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "8.8.8.8", "no-such-host.invalid"])
def test_no_server_without_keys_beyond_loopback(host: str) -> None:
    """Exit 4 with the ways out, unless it was said in words."""
    with pytest.raises(Refused) as caught:
        serve.permitted(configured(), host=host)
    assert caught.value.code == 4
    assert "--insecure-no-auth" in str(caught.value)
    assert not serve.permitted(configured(), host=host, insecure_no_auth=True)
    assert serve.permitted(configured(keys=(KEY,)), host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost", None])
def test_loopback_needs_no_keys(host: str | None) -> None:
    """A person trying something on their own machine is let alone."""
    assert not serve.permitted(configured(), host=host)


def test_local_does_not_serve_unless_told_to(churn: Any) -> None:
    """Exit 4, naming both ways out, through both doors."""
    off = settings.load(project=Path(__file__).parents[1], environment="local", environ={})
    for door in (lambda: serve.permitted(off), lambda: serve.app(churn[0], off), lambda: serve.serve(churn[0], off, port=0)):
        with pytest.raises(Refused) as caught:
            door()
        assert caught.value.code == 4
        assert "APP_ENV" in str(caught.value)
        assert "--set api_serving.enabled=true" in str(caught.value)


def test_prod_serves_with_keys_only() -> None:
    """Without authentication exit 3; told to do without, exit 4."""
    environ = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
        "WAREHOUSE_URI": "bigquery://p/d",
        "RECIPELINE_API_KEY_SHA256": serve.hash_key(KEY),
    }
    open_ = configured("api_serving.auth.keys=[]", environment="prod", **environ)
    with pytest.raises(RecipeError) as caught:
        serve.permitted(open_, host="127.0.0.1")
    assert caught.value.code == 3
    with pytest.raises(Refused) as refused:
        serve.permitted(open_, insecure_no_auth=True)
    assert refused.value.code == 4
    assert serve.permitted(configured(environment="prod", **environ))


def test_an_application_without_a_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The door of gunicorn names the variable it needs."""
    monkeypatch.delenv("RECIPELINE_RUN_ID", raising=False)
    with pytest.raises(UsageError, match="RECIPELINE_RUN_ID"):
        serve.app(settings=configured())


# --- health, metadata, measures, documentation ---------------------------------------------------------------------------


@contextlib.contextmanager
def started(gate: Gate) -> Iterator[Callable[..., httpx.Response]]:
    """An application whose lifespan runs, as a server would run it."""
    loop = asyncio.new_event_loop()
    manager = gate.inner.router.lifespan_context(gate.inner)  # type: ignore[attr-defined]
    loop.run_until_complete(manager.__aenter__())
    try:
        yield lambda method, path, **rest: loop.run_until_complete(Client(gate).ask(method, path, **rest))
    finally:
        loop.run_until_complete(manager.__aexit__(None, None, None))
        loop.close()


def test_ready_means_a_model_that_predicted_its_example(churn: Any) -> None:
    """Not before the start, not while stopping; alive all the time."""
    gate = serve.app(churn[0], configured())
    is_problem(Client(gate)("GET", "/health/ready"), 503, "not-ready")
    with started(gate) as ask:
        assert ask("GET", "/health/ready").json() == {"status": "ready", "model_version": churn[0].version}
        gate.state.draining = True
        is_problem(ask("GET", "/health/ready"), 503, "draining")
        live = ask("GET", "/health/live")
        assert (live.status_code, live.headers["connection"]) == (200, "close")


def test_a_model_that_cannot_predict_its_example_never_gets_ready(caplog: pytest.LogCaptureFixture) -> None:
    """The process lives and says why it should get no traffic."""
    gate = serve.app(numbers(Failing(ValueError("broken")), n=20, d=2)[0], configured())
    with started(gate) as ask:
        assert "self-test" in is_problem(ask("GET", "/health/ready"), 503, "not-ready")["detail"]
        assert ask("GET", "/health/live").status_code == 200
    assert "broken" in caplog.text


def test_metadata_tells_contract_metrics_and_tuning(churn: Any, asked: Client) -> None:
    """What a caller must send and how good the answers are; no place on the server."""
    facts = asked("GET", "/model/metadata").json()
    assert facts["schema"] == json.loads(json.dumps(churn[0].schema.to_json()))
    assert facts["metrics"]["metrics"] == {"accuracy": 0.9, "x": None}
    assert facts["hpo"] == {"n": 0}
    assert facts["model"].endswith("LogisticRegression")
    assert facts["output"] == {"keys": ["customer"], "values": ["prediction", "probability_no", "probability_yes"]}


def test_measures_count_requests_rows_and_ignored_columns(churn: Any) -> None:
    """In the form that Prometheus reads, without a label that a client could fill."""
    measures.reset()
    counted = client(churn[0])
    counted.predict([record(churn, odd=1)] * 3)
    counted.predict(raw=b"{")
    counted("GET", "/" + "x" * 50)
    text = counted("GET", "/metrics").text
    for line in (
        'recipeline_http_requests_total{outcome="ok",route="predict"} 1.0',
        'recipeline_http_requests_total{outcome="refused",route="predict"} 1.0',
        'recipeline_http_requests_total{outcome="refused",route="other"} 1.0',
        "recipeline_rows_total 3.0",
        "recipeline_ignored_columns_total 1.0",
    ):
        name, _, value = line.partition("{")[0], None, line.rsplit(" ", 1)[1]
        labels = set(re.findall(r'(\w+)="(\w+)"', line))
        assert any(
            found.startswith(name) and found.endswith(" " + value) and set(re.findall(r'(\w+)="(\w+)"', found)) == labels
            for found in text.splitlines()
        ), (line, text)
    assert "xxx" not in text


def resolved(schema: Any, document: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": document["components"]}


def test_openapi_describes_what_predict_takes(churn: Any, asked: Client) -> None:
    """The request schema accepts what the server accepts and refuses what it refuses, with categories as documentation."""
    document = asked("GET", "/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    schema = resolved(content["schema"], document)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = record(churn)
    for body in (content["example"], good, [good], {"records": [good, good]}, [], record(churn, extra=1), record(churn, model_config=...)):
        jsonschema.validate(body, schema)
        assert asked.predict(body).status_code == 200
    for body in (3, record(churn, age="42"), record(churn, age=...), record(churn, income=None), [1]):
        assert not jsonschema.Draft202012Validator(schema).is_valid(body)
        assert asked.predict(body).status_code == 422
    properties = document["components"]["schemas"]["Record"]["properties"]
    assert list(properties) == list(churn[0].schema.names)
    assert "seen in training: 'dk', 'kr', 'nl'" in properties["country"]["description"]
    assert "enum" not in properties["country"]
    assert "application/problem+json" in document["paths"]["/predict"]["post"]["responses"]["default"]["content"]
    answer = asked.predict(good).json()
    jsonschema.validate(answer, resolved(document["components"]["schemas"]["Answer"], document))
    problem = asked.predict(record(churn, age="x")).json()
    jsonschema.validate(problem, resolved(document["components"]["schemas"]["Problem"], document))


def test_docs_need_no_other_host(churn: Any, asked: Client) -> None:
    """A page of one file: no script, no link elsewhere, and names of columns cannot break out of it."""
    page = asked("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|<link|https?://(?!HOST:PORT)", page.text)
    for name in ("income", "/predict", "/model/metadata", "X-Ignored-Columns"):
        assert name in page.text
    data = pd.DataFrame({"<script>alert(1)</script>": [1.0, 2.0], "y": [1.0, 2.0]})
    task = Regression(Regression.Interface(task_type="regression", target_col="y"))
    pipeline = Pipeline(task=task, schema=task.describe(data), model=Held())
    assert "<script" not in client(pipeline)("GET", "/docs").text


def test_a_locked_server_says_so_in_its_documentation(churn: Any) -> None:
    """OpenAPI names both ways of giving a key, and that probes need none."""
    document = client(churn[0], keys=(KEY,))("GET", "/openapi.json", headers={"x-api-key": KEY}).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "header"}
    assert document["paths"]["/health/live"]["get"]["security"] == []


# --- routes that parts bring ---------------------------------------------------------------------------------------------


class Step(BaseModel):
    observation: list[float]


class Move(BaseModel):
    action: int
    started: bool


class Agent(Held):
    """A model that brings routes: one handler that blocks, one that does not, and something to start and stop."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.go.set()

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/agent/act", Step, Move, self.act, start=self.start, stop=self.stop, summary="Choose an action"),
            Route("GET", "/agent/moves/{number}", Numbered, Move, self.look),
        ]

    async def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")

    def act(self, step: Step) -> Move:
        return Move(action=int(sum(step.observation) > 0), started="start" in self.told)

    async def look(self, asked: Numbered) -> dict[str, Any]:
        return {"action": asked.number, "started": True}


class Numbered(BaseModel):
    number: int


def test_a_model_brings_its_routes_and_their_start_and_stop() -> None:
    """Mounted with the model that brings them, documented, and in the same form of error."""
    model = Agent()
    gate = serve.app(numbers(model, n=20, d=2)[0], configured())
    with started(gate) as ask:
        headers = {"content-type": "application/json"}
        assert ask("POST", "/agent/act", content='{"observation": [1, 2]}', headers=headers).json() == {"action": 1, "started": True}
        assert ask("GET", "/agent/moves/7").json() == {"action": 7, "started": True}
        wrong = is_problem(ask("POST", "/agent/act", content='{"observation": ["x"]}', headers=headers), 422, "invalid-request")
        assert wrong["errors"][0]["pointer"] == "/observation/0"
        is_problem(ask("GET", "/agent/moves/seven"), 422, "invalid-request")
        is_problem(ask("POST", "/agent/act", content="{}", headers={"content-type": "text/plain"}), 415, "not-json")
        document = ask("GET", "/openapi.json").json()
        assert document["components"]["schemas"].keys() >= {"Step", "Move"}
        assert document["paths"]["/agent/act"]["post"]["summary"] == "Choose an action"
        assert document["paths"]["/agent/moves/{number}"]["get"]["parameters"][0]["in"] == "path"
        assert model.told == ["start"]
    assert model.told == ["start", "stop"]


def test_another_model_has_no_such_routes(asked: Client) -> None:
    """A route lives with the part that brings it."""
    is_problem(asked("POST", "/agent/act"), 404, "no-such-path")


def test_a_route_that_is_taken_is_a_mistake_before_the_start() -> None:
    """Two parts cannot answer one path, and none can answer ours."""

    class Rude(Held):
        routes = (Route("POST", "/predict", None, None, print),)

    with pytest.raises(RecipeError, match="/predict"):
        serve.app(numbers(Rude(), n=20, d=2)[0], configured())


class Asking(BaseModel):
    """A vector instead of columns."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"observation": [1.0, 2.0]}]})
    observation: list[float]


class Answering:
    """A model that answers /predict in a form of its own, and says that it means to."""

    def fit(self, X: Any, y: Any = None) -> Answering:
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))

    def routes(self) -> list[Route]:
        return [Route("POST", "/predict", Asking, None, self.vector, summary="Act", instead=True)]

    def vector(self, asked: Asking, version: str) -> dict[str, Any]:
        return {"sum": sum(asked.observation), "version": version}


def test_a_model_may_answer_predict_itself_and_rows_move_aside() -> None:
    """What it is told as version is what rows are told; the printed command works; the interface shows both."""
    pipeline, rows = numbers(Answering(), n=20, d=2)
    gate = serve.app(pipeline, configured())
    with started(gate) as ask:
        headers = {"content-type": "application/json"}
        words = shlex.split(curl(pipeline.schema, "http://x", secured=False, routes=pipeline.model.routes()))
        assert "http://x/predict" in words
        answer = ask("POST", "/predict", content=words[words.index("-d") + 1], headers=headers).json()
        listed = ask("POST", "/predict/rows", content=rows.head(2).to_json(orient="records"), headers=headers).json()
        assert answer == {"sum": 3.0, "version": listed["model_version"]}
        assert len(listed["predictions"]) == 2
        assert is_problem(ask("POST", "/predict", content='{"observation": "x"}', headers=headers), 422, "invalid-request")
        paths = ask("GET", "/openapi.json").json()["paths"]
        assert paths["/predict"]["post"]["summary"] == "Act"
        assert "Answer" in str(paths["/predict/rows"]["post"]["responses"])
        assert "/predict/rows" in ask("GET", "/docs").text


# --- real sockets --------------------------------------------------------------------------------------------------------


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@contextlib.contextmanager
def listening(gate: Gate) -> Iterator[tuple[Server, int]]:
    """A real server in a thread, on a free port of 127.0.0.1."""
    sock = socket.create_server(("127.0.0.1", 0))
    http_ = Connection.with_patience(gate.limits.timeout)
    config = uvicorn.Config(gate, http=http_, ws="none", lifespan="on", log_config=None, access_log=False)
    server = Server(config, gate.state, lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        eventually(lambda: server.started)
        yield server, sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        sock.close()


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_serve import configured, numbers
from recipeline import serve
pipeline, _ = numbers()
serve.serve(pipeline, configured(*{overrides!r}, keys={keys!r}), port=0, announce=lambda text: print(text, flush=True))
"""


class Process:
    """A server in a process of its own; ended by its own id."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def lines(self, until: str) -> list[str]:
        assert self.process.stdout is not None
        while not (self.said and until in self.said[-1]):
            line = self.process.stdout.readline()
            assert line, f"ended with {self.process.wait(5)}: {self.process.stderr and self.process.stderr.read()}"
            self.said.append(line.rstrip("\n"))
        return self.said

    @property
    def port(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.lines("curl ")[0])
        assert found
        return int(found[1])

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def script(*overrides: str, keys: tuple[str, ...] = ()) -> Process:
    return Process("-c", SCRIPT.format(tests=str(Path(__file__).parent), overrides=overrides, keys=keys))


def test_the_curl_printed_at_the_start_works_as_printed() -> None:
    """Copied into a shell it gives a prediction; with keys it takes one from the environment."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    with script(keys=(KEY,)) as server:
        command = server.lines("curl ")[-1]
        env = {**os.environ, "RECIPELINE_API_KEY": KEY}
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, env=env)
        assert json.loads(done.stdout)["predictions"][0].keys() == {"prediction"}
        assert server.end() == -signal.SIGTERM


def test_a_curl_survives_any_value_and_any_name() -> None:
    """Quotes, spaces and letters of other scripts in names and values are quoted for the shell."""
    data = pd.DataFrame({"it's": ["a 'b' $HOME `x`", "c"], "나이": [1.0, 2.0], "y": [1.0, 2.0]})
    task = Regression(Regression.Interface(task_type="regression", target_col="y"))
    schema = task.describe(data)
    words = shlex.split(curl(schema, "http://x", secured=False))
    assert json.loads(words[words.index("-d") + 1]) == {"it's": "a 'b' $HOME `x`", "나이": 2.0}


def test_sigterm_under_load_loses_no_request(numeric: Any) -> None:
    """Every request that reached the server is answered; after that the door is closed."""
    row = json.dumps(numeric[1].drop(columns="y").iloc[0].to_dict())
    with script() as server:
        port = server.port
        lost: list[str] = []
        answered = [0] * 6
        stopping = threading.Event()

        def load(which: int) -> None:
            line: http.client.HTTPConnection | None = None
            while True:
                if line is None:
                    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                    try:
                        line.connect()
                    except OSError:  # nothing was sent: the door is closed
                        if not stopping.is_set():
                            lost.append("refused before the end")
                        return
                try:
                    line.request("POST", "/predict", row, {"content-type": "application/json"})
                    response = line.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    lost.append(repr(error))
                    return
                if response.status != 200:
                    lost.append(f"status {response.status}")
                answered[which] += 1
                if response.headers.get("connection") == "close" or which % 2:  # half of them open a connection for each request
                    line.close()
                    line = None

        threads = [threading.Thread(target=load, args=(which,)) for which in range(6)]
        for thread in threads:
            thread.start()
        eventually(lambda: min(answered) > 5)
        stopping.set()
        code = server.end()
        for thread in threads:
            thread.join(20)
        assert not lost
        assert code == -signal.SIGTERM


def test_a_request_in_flight_is_finished_before_the_end() -> None:
    """The model answers after the signal, and the client gets it."""
    model = Held()
    pipeline, data = numbers(model, n=20, d=2)
    model.go.set()
    gate = serve.app(pipeline, configured())
    with listening(gate) as (server, port):
        model.go.clear()
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        line.request("POST", "/predict", json.dumps(data.drop(columns="y").iloc[0].to_dict()), {"content-type": "application/json"})
        assert model.begun.acquire(timeout=5)
        assert model.begun.acquire(timeout=5)  # the self-test was the first
        server.should_exit = True
        eventually(lambda: gate.state.draining)
        model.go.set()
        assert line.getresponse().status == 200


def test_a_large_chunked_body_is_refused_while_it_is_still_coming(churn: Any) -> None:
    """No content-length: the bytes are counted as they come, and the client reads why before the line closes."""
    gate = serve.app(churn[0], configured("api_serving.limits.max_bytes=100000"))
    with listening(gate) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(15):
            line.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        answer = line.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"too-many-bytes" in answer + line.recv(65536)
        line.sendall(b"0\r\n\r\n")
        while line.recv(65536):
            pass  # the server closes
        eventually(lambda: gate.active == 0 and gate.held == 0)


def test_a_client_that_leaves_leaves_nothing_behind(churn: Any) -> None:
    """In the middle of the headers, of the body, or of the answer: no task, no connection, no byte and no descriptor stays."""
    gate = serve.app(churn[0], configured("api_serving.limits.timeout=5"))
    good = json.dumps(record(churn)).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(good)
    with listening(gate) as (server, port):
        before = psutil.Process().num_fds()
        for sent in (b"", b"POST /pre", head, head + good[:20], head + good):
            for _ in range(10):
                line = socket.create_connection(("127.0.0.1", port), timeout=10)
                line.sendall(sent)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a polite end
                line.close()
        state = server.server_state
        eventually(lambda: not state.connections and not state.tasks and gate.active == 0 and gate.held == 0)
        eventually(lambda: psutil.Process().num_fds() <= before)
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        line.request("POST", "/predict", good, {"content-type": "application/json"})
        assert line.getresponse().status == 200
        line.close()


def test_a_client_that_is_silent_is_let_go(churn: Any) -> None:
    """Headers that never end, a body that never ends, an answer that nobody reads: each gives its place back in time."""
    gate = serve.app(churn[0], configured("api_serving.limits.timeout=0.5"))
    with listening(gate) as (server, port):
        silent, half, body = (socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3))
        half.sendall(b"POST /predict HTTP/1.1\r\nhost:")
        body.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        assert body.recv(65536).startswith(b"HTTP/1.1 408")
        for line in (silent, half):
            with contextlib.suppress(ConnectionResetError):
                assert line.recv(1) == b""
        eventually(lambda: not server.server_state.connections and gate.active == 0)
        for line in (silent, half, body):
            line.close()


def test_an_answer_that_nobody_reads_is_let_go(numeric: Any) -> None:
    """A client that asks for megabytes and never reads loses its connection, not the server its memory."""
    pipeline, data = numeric
    gate = serve.app(pipeline, configured("api_serving.limits.timeout=1"))
    rows = json.dumps([data.drop(columns="y").iloc[0].to_dict()] * 5000).encode()
    with listening(gate) as (server, port):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", port))
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(rows)
        line.settimeout(10)
        with contextlib.suppress(ConnectionError):  # until the server lets go
            for _ in range(50):  # each answer is 200 kB; the buffers on the way are full after some
                line.sendall(head + rows)
        eventually(lambda: not server.server_state.connections and gate.active == 0, 30)
        line.close()


def test_what_is_no_http_gets_a_problem_too(churn: Any) -> None:
    """Even before there is a request; headers without end are cut."""
    with listening(serve.app(churn[0], configured())) as (_, port):
        for sent, status in ((b"NOT HTTP\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000, b"431")):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
                line.sendall(sent)
                answer = line.recv(65536)
                assert answer.startswith(b"HTTP/1.1 " + status), answer
                assert b"application/problem+json" in answer


def test_an_address_that_is_taken_is_a_mistake_in_the_command(churn: Any) -> None:
    """It says what to change; nothing was loaded into a server that cannot listen."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="--port"):
        serve.serve(churn[0], configured(), port=taken.getsockname()[1])
    with pytest.raises(UsageError):
        serve.serve(churn[0], configured(), port=0, workers=0)


def test_several_workers_need_a_saved_run() -> None:
    """Each of them loads the model for itself."""
    pipeline, _ = numbers(n=20, d=2)
    pipeline.facts.clear()
    with pytest.raises(UsageError, match="no saved run"):
        serve.serve(pipeline, configured(), port=0, workers=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str]:
    """A project with one trained run: its folder and the run's id."""
    from recipeline import train

    folder = tmp_path_factory.mktemp("served")
    shutil.copy(empty_store, folder / "mlflow.db")
    numbers(n=60, d=3)[1].to_csv(folder / "rows.csv", index=False)
    recipe = {
        "name": "served",
        "model": {
            "class_path": "sklearn.linear_model.Ridge",
            "loader": {"name": "default_loader", "source_uri": str(folder / "rows.csv")},
            "data_interface": {"task_type": "regression", "target_col": "y"},
        },
    }
    run = train(recipe, settings=settings.load(project=folder, environ={}))
    return folder, run.id


def test_two_workers_answer_on_one_port_and_end_together(saved: tuple[Path, str]) -> None:
    """The command as a user gives it; a worker that dies is replaced; the signal ends them all."""
    folder, run = saved
    arguments = ("-m", "recipeline", "serve-api", "--run-id", run, "--port", "0", "--workers", "2", "--set", "api_serving.enabled=true")
    with Process(*arguments, cwd=folder) as server:
        port = server.port
        workers = psutil.Process(server.process.pid).children()
        ours = [child for child in workers if "spawn_main" in " ".join(child.cmdline())]
        assert len(ours) == 2
        url = f"http://127.0.0.1:{port}"
        row = {"f00": 1.0, "f01": 2, "f02": 3.5}
        first = httpx.post(f"{url}/predict", json=row).json()
        assert first["run_id"] == run
        ours[0].kill()
        ours[0].wait(10)
        for _ in range(20):
            assert httpx.post(f"{url}/predict", json=row).json() == first
        assert server.end() in {143, -signal.SIGTERM}
        eventually(lambda: not any(child.is_running() for child in workers))


def test_gunicorn_serves_the_run_that_the_environment_names(saved: tuple[Path, str]) -> None:
    """The line of the guide, with the worker class that it names."""
    folder, run = saved
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ("-m", "gunicorn", "recipeline.serve:app()", "-w", "1", "-k", "uvicorn.workers.UvicornWorker", "-b", f"127.0.0.1:{port}")
    env = {"RECIPELINE_RUN_ID": run, "RECIPELINE__API_SERVING__ENABLED": "true", "PYTHONWARNINGS": "ignore"}
    with Process(*arguments, env=env, cwd=folder) as server:

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
            return False

        eventually(answers, 40)
        assert httpx.post(f"http://127.0.0.1:{port}/predict", json={"f00": 1, "f01": 2, "f02": 3}).json()["run_id"] == run
        server.end()


def test_the_state_of_a_server_is_its_own() -> None:
    """Two servers in one process do not tell each other that they are ready."""
    assert State() == State()
    assert State() is not State()
