"""No secret in anything that a command writes: files, databases, artifacts, logs, stdout, stderr, HTTP answers, requests to others.

One project in which every place for a secret holds a canary, and every command run over it in a process of its own. Each canary
is seen to arrive where it is needed (else the search would prove nothing), and planted leaks are found by the same search.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import canaries
import distributions
from crashing import Ended, Nursery
from recipeline import logs

pytestmark = pytest.mark.xdist_group("canaries")  # one project, whose commands build on each other

SECRETS = {
    "SHOP_PASSWORD": "Kanarie-shop-4kT9",  # in the address of a database
    "VAULT_PASSWORD": "Kanarie vault+pass/7é",  # for an adapter of one's own; URLs, JSON and Python each write it in another way
    "VAULT_API_KEY": "Kanarie-vault-key-1pX",
    "VAULT_TOKEN": "Kanarie-part-token-8sW",  # of a part, in `parts`
    "STORAGE_SECRET": "Kanarie-storage-2mB",
    "MLFLOW_PASSWORD": "Kanarie%2Fmlflow%2B3",  # as an address has to write Kanarie/mlflow+3
    "AZURE_CLIENT_SECRET": "Kanarie-environment-6vN",  # named nowhere: libraries read it
}
LITERAL = "Kanarie-literal-5hJ"  # written into a configuration file that git ignores
CLIENT_KEY, WRONG_KEY = "Kanarie-client-key-9dF", "Kanarie-wrong-key-0aL"
ALL = [*SECRETS.values(), LITERAL, CLIENT_KEY, WRONG_KEY]

VAULT = '''
"""A stranger's distribution that needs secrets, and says them whenever something goes wrong."""

import base64
import hashlib
import urllib.parse

import pandas as pd
from sklearn.dummy import DummyClassifier


def opens(*secrets, digest):
    if hashlib.sha256("|".join(secrets).encode()).hexdigest() != digest:
        raise PermissionError(f"{secrets} do not open the vault")


class Adapter:
    def __init__(self, *, password, api_key, digest):
        opens(password, api_key, digest=digest)

    def read(self, query, params=None):
        return pd.read_csv(query)


class Loader:
    """Rows of a file, for who has the token."""

    def __init__(self, file, *, token, passphrase, digest, fails=False):
        self.file, self.token, self.passphrase, self.digest, self.fails = file, token, passphrase, digest, fails

    def load(self):
        opens(self.token, self.passphrase, digest=self.digest)
        if self.fails:
            coded = base64.b64encode(f"me:{self.token}".encode()).decode()
            raise ConnectionError(f"{self.token} / {urllib.parse.quote(self.passphrase)} / Authorization: Basic {coded}")
        return pd.read_csv(self.file)


class Model(DummyClassifier):
    """Keeps its key where the artifact would keep it, too."""

    def __init__(self, api_key=None, strategy="prior"):
        super().__init__(strategy=strategy)
        self.api_key = api_key
'''

RECIPE = """\
name: {name}
model:
  class_path: {model}
  loader: {loader}
  data_interface: {{task_type: classification, target_col: churned, entity_cols: [customer]}}
evaluation: {{metrics: [accuracy], validation: {{method: train_test_split, test_size: 0.25}}}}
"""


def digest(*secrets: str) -> str:
    return hashlib.sha256("|".join(secrets).encode()).hexdigest()


CONFIG = f"""\
security: {{allowed_namespaces: [sklearn]}}
execution: {{report: true}}
api_serving: {{enabled: true, auth: {{keys: ['${{API_KEY_DIGEST}}']}}}}
data_adapters:
  adapters:
    sql: {{class_name: SqlAdapter, config: {{connection_uri: 'sqlite:///../${{SHOP_PASSWORD}}/shop.db'}}}}
    vault: {{class_name: vault_adapter, config: {{password: '${{VAULT_PASSWORD}}', api_key: '${{VAULT_API_KEY}}',
             digest: {digest(SECRETS["VAULT_PASSWORD"], SECRETS["VAULT_API_KEY"])}}}}}
    storage: {{class_name: StorageAdapter, config: {{key: AKIA, secret: '${{STORAGE_SECRET}}', roots: ['memory://bucket']}}}}
sources:
  customers: {{adapter: vault, query: rows.csv}}
parts:
  loader:
    vault_loader: {{token: '${{VAULT_TOKEN}}', passphrase: {LITERAL}, digest: {digest(SECRETS["VAULT_TOKEN"], LITERAL)}}}
  model:
    vault_model: {{api_key: '${{VAULT_API_KEY}}'}}
"""

LOGISTIC = "sklearn.linear_model.LogisticRegression"
RECIPES = {
    "part": RECIPE.format(name="part", model=LOGISTIC, loader="{name: vault_loader, params: {file: rows.csv}}"),
    "failing": RECIPE.format(name="failing", model=LOGISTIC, loader="{name: vault_loader, params: {file: rows.csv, fails: true}}"),
    "vault": RECIPE.format(name="vault", model=LOGISTIC, loader="{name: default_loader, source_uri: 'source://customers'}"),
    "shop": RECIPE.format(name="shop", model=LOGISTIC, loader="{name: default_loader, source_uri: SELECT * FROM customers}"),
    "storage": RECIPE.format(name="storage", model=LOGISTIC, loader="{name: default_loader, source_uri: 'memory://bucket/rows.csv'}"),
    "broken": RECIPE.format(name="broken", model=LOGISTIC, loader="{name: default_loader, source_uri: SELECT nothing FROM nowhere}"),
    "keeping": RECIPE.format(name="keeping", model="vault_model", loader="{name: default_loader, source_uri: rows.csv}"),
    "wrong": RECIPE.format(
        name="wrong", model="sklearn.linear_model.LogisticRegresion", loader="{name: vault_loader, params: {fil: rows.csv}}"
    ),
}


class House:
    """The project, and everything that its commands ever said."""

    def __init__(self, nursery: Nursery, folder: Path, site: Path) -> None:
        self.nursery, self.folder, self.site = nursery, folder, site
        self.said = folder.with_name("said")
        self.said.mkdir()
        self.number = 0
        self.environ = {
            **SECRETS, "LOG_LEVEL": "DEBUG", "API_KEY_DIGEST": hashlib.sha256(CLIENT_KEY.encode()).hexdigest(),
        }  # fmt: skip

    def run(self, *arguments: str, code: int = 0, **environ: str) -> Ended:
        """One command, which must end so; what it said is kept for the search."""
        ended = self.nursery.run(self.folder, *arguments, environ=self.environ | environ, site=self.site)
        self.keep(f"{arguments[0]}.out", ended.out)
        self.keep(f"{arguments[0]}.err", ended.err)
        assert ended.code == code, (arguments, ended.code, ended.out[-2000:], ended.err[-4000:])
        return ended

    def keep(self, name: str, text: str) -> None:
        self.number += 1
        (self.said / f"{self.number:03d}-{name}").write_text(text)

    def leaks(self) -> list[str]:
        """Hits in the project and in everything that was said; the configuration holds the literal by right."""
        hits = canaries.found(self.folder, ALL) + canaries.found(self.said, ALL)
        return [hit for hit in hits if not hit.startswith("config/local.local.yaml: Kanarie-literal")]


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"customer": [f"c{i}" for i in range(120)], "age": rng.integers(18, 90, 120), "income": rng.normal(2, 1, 120)})
    return frame.assign(churned=np.where(frame["income"] > 2, "yes", "no"))


@pytest.fixture(scope="module")
def house(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> House:
    import contextlib
    import sqlite3

    root = tmp_path_factory.mktemp("canaries")
    folder = root / "project"
    (folder / "config").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "config" / "local.yaml", folder / "config")
    (folder / "config" / "base.yaml").write_text("mlflow: {experiment_name: canaries}\n")
    (folder / "config" / "local.local.yaml").write_text(CONFIG)
    shutil.copy(empty_store, folder / "mlflow.db")
    rows().to_csv(folder / "rows.csv", index=False)
    (root / SECRETS["SHOP_PASSWORD"]).mkdir()
    with contextlib.closing(sqlite3.connect(root / SECRETS["SHOP_PASSWORD"] / "shop.db")) as shop:
        rows().to_sql("customers", shop, index=False)
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    distributions.install(
        root / "site", "vault", {"vault": VAULT},
        {"adapter": {"vault_adapter": "vault:Adapter"}, "loader": {"vault_loader": "vault:Loader"},
         "model": {"vault_model": "vault:Model"}},
    )  # fmt: skip
    return House(nursery, folder, root / "site")


# --- training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["part", "vault", "shop"])
def test_what_needs_a_secret_trains_and_writes_none(house: House, name: str) -> None:
    """A part with a token, an adapter with a password, a database whose address holds one: they work, and with another they do not."""
    house.run("train", "--recipe-file", f"{name}.yaml", "--json", "--debug")
    variable = {"part": "VAULT_TOKEN", "vault": "VAULT_PASSWORD", "shop": "SHOP_PASSWORD"}[name]
    refused = house.nursery.run(
        house.folder, "train", "--recipe-file", f"{name}.yaml", environ=house.environ | {variable: "Kanarie-another"}, site=house.site
    )
    assert refused.code in {5, 6, 3, 10}, refused
    assert "Kanarie" not in refused.out + refused.err
    assert house.leaks() == []


@pytest.mark.parametrize(("name", "code"), [("failing", 5), ("storage", 5), ("broken", 5), ("wrong", 3)])
def test_what_fails_says_no_secret(house: House, name: str, code: int) -> None:
    """Although a stranger's loader puts its token into its error, in three forms; with the traceback, and without."""
    for more in ((), ("--debug",), ("--json",)):
        house.run("train", "--recipe-file", f"{name}.yaml", *more, code=code, LOG_LEVEL="DEBUG" if more else "INFO")
    assert house.leaks() == []


def test_a_program_that_uses_the_library_leaves_no_secret_either(house: House) -> None:
    """Nobody set up a log there: the failed run in tracking has its error, its log and no secret."""
    program = (
        "import recipeline\ntry:\n    recipeline.train('failing.yaml')\nexcept recipeline.RecipelineError as error:\n    print(error.slug)"
    )
    environ = {**os.environ, **house.environ, "PYTHONPATH": str(house.site), "LOG_LEVEL": "INFO"}
    done = subprocess.run([sys.executable, "-c", program], cwd=house.folder, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loader-failed"
    logs_of_failed = [path.read_text() for path in house.folder.glob("mlruns/*/*/artifacts/log.txt")]
    assert any("ConnectionError" in text and logs.MASK in text for text in logs_of_failed)
    assert house.leaks() == []


def test_a_model_that_would_keep_a_secret_is_not_written(house: House) -> None:
    """Its parameters go into the artifact, and the secret with them: the training says so and writes no artifact."""
    ended = house.run("train", "--recipe-file", "keeping.yaml", code=10)
    assert "secret-in-artifact" in ended.err
    assert "parts.model.vault_model.api_key" in ended.err
    assert house.leaks() == []


# --- the other commands ---------------------------------------------------------------------------------------------------


def test_every_other_command_writes_no_secret(house: House) -> None:
    """Over runs that needed one, with everything said that can be said."""
    trained = [house.run("train", "--recipe-file", f"{name}.yaml", "--json").json["run_id"] for name in ("part", "vault")]
    for name in RECIPES:
        house.run("validate", "--recipe-file", f"{name}.yaml", "--json", code=3 if name == "wrong" else 0)
        house.run("show", "--resolved", f"{name}.yaml", code=3 if name == "wrong" else 0)
    for run_id in trained:
        house.run("show", run_id)
        house.run("show", run_id, "--json")
    house.run("batch-inference", "--run-id", trained[0], "--input", "rows.csv", "--output", "out.parquet", "--evaluate")
    house.run("batch-inference", "--run-id", trained[1], "--output", "parts/", "--debug")
    house.run("batch-inference", "--run-id", trained[1], "--input", "nowhere.csv", "--output", "no.csv", code=5)
    house.run("compare", *trained)
    doctor = house.run("doctor", "--json", "--set", f"mlflow.tracking_uri=http://me:{LITERAL}@127.0.0.1:9", code=6)
    assert "127.0.0.1:9" in doctor.out
    house.run("doctor")
    for what in ("parts", "tasks", "metrics", "runs"):
        house.run("list", what)
    house.run("schema", "recipe", "--output", "recipe.schema.json")
    house.run("schema", "config")
    house.run("init", "new")
    house.run("sync")
    house.run("export", "--run-id", trained[0], "--format", "nothing", "--output", "there", code=2)
    house.run("train", "--recipe-file", "part.yaml", "--set", f"parts.loader.vault_loader.passphrase={WRONG_KEY}", code=5)
    house.run("train", "--recipe-file", "part.yaml", "--set", f"parts.loader.vault_loader.pasphrase={WRONG_KEY}", code=3)
    house.run("train", "--recipe-file", "part.yaml", "--set", f"password={WRONG_KEY}", code=3)
    assert house.leaks() == []


def test_a_server_writes_no_secret(house: House) -> None:
    """Right and wrong keys, good and bad bodies, unknown places, documentation and measures; then its log."""
    run_id = house.run("train", "--recipe-file", "part.yaml", "--json").json["run_id"]
    server = house.nursery.start(
        house.folder, "serve-api", "--run-id", run_id, "--port", "0", "--debug", environ=house.environ, site=house.site
    )
    try:
        said = _wait(server.out, "curl ")
        port = int(said.split("http://127.0.0.1:")[1].split()[0].split("/")[0])
        row = json.dumps({"age": 30, "income": 1.5}).encode()
        statuses = []
        for key, path, body in [
            (CLIENT_KEY, "/predict", row), (WRONG_KEY, "/predict", row), (CLIENT_KEY, "/predict", b"{"), (CLIENT_KEY, "/predict", b"[{}]"),
            (CLIENT_KEY, f"/predict?key={WRONG_KEY}", b'{"age": "' + WRONG_KEY.encode() + b'"}'), (WRONG_KEY, "/nowhere", b""),
            (CLIENT_KEY, "/openapi.json", None), (CLIENT_KEY, "/metrics", None), (CLIENT_KEY, "/model/metadata", None), ("", "/docs", None),
        ]:  # fmt: skip
            status, answer = _ask(port, path, body, key)
            statuses.append(status)
            if WRONG_KEY not in path and (body is None or WRONG_KEY.encode() not in body):  # not what the client said itself
                house.keep("answer.http", answer)
    finally:
        code = house.nursery.stop(server)
    assert code in {0, 143}
    assert statuses[:4] == [200, 401, 400, 422]
    for path in (server.out, server.err):
        house.keep(path.name, path.read_text())
    assert "/predict" in server.err.read_text() + server.out.read_text()
    assert house.leaks() == []


def _wait(path: Path, word: str) -> str:
    import time

    until = time.monotonic() + 60
    while word not in path.read_text():
        assert time.monotonic() < until, path.read_text() + path.with_name("err").read_text()
        time.sleep(0.05)
    return path.read_text()


def _ask(port: int, path: str, body: bytes | None, key: str) -> tuple[int, str]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode() + str(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode() + str(error.headers)


# --- tracking -------------------------------------------------------------------------------------------------------------


class _Listener(http.server.BaseHTTPRequestHandler):
    """A tracking server that is out of order, and keeps what it was told."""

    heard: list[tuple[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        self.heard.append((str(self.headers.get("Authorization")), f"{self.path} {body}"))
        self.send_response(404)
        self.end_headers()
        self.wfile.write(f"no such thing: {self.headers.get('Authorization')}".encode())

    do_GET = do_PUT = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    heard: list[tuple[str, str]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Listener,), {"heard": heard})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], heard
        server.shutdown()
        thread.join()


def test_the_password_of_tracking_reaches_the_server_and_nothing_else(house: House, listener: tuple[int, list[tuple[str, str]]]) -> None:
    """In the Authorization header; not in the run, its log, the spool, or what is said where the server answers with an error."""
    port, heard = listener
    uri = "mlflow.tracking_uri=http://me:${MLFLOW_PASSWORD}@127.0.0.1:" + str(port)
    ended = house.nursery.run(
        house.folder, "train", "--recipe-file", "shop.yaml", "--debug", "--set", uri, environ=house.environ, site=house.site
    )
    house.keep("train.out", ended.out)
    house.keep("train.err", ended.err)
    wanted = "Basic " + base64.b64encode(b"me:Kanarie/mlflow+3").decode()
    assert [authorization for authorization, _ in heard].count(wanted) > 0, (heard, ended.err)
    for _, body in heard:
        house.keep("heard.http", body)
    assert house.leaks() == []


# --- the search itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", sorted(ALL))
def test_a_planted_leak_is_found_in_every_form(tmp_path: Path, secret: str) -> None:
    """The positive control of everything above: plain, encoded, packed, in a database, in a table, in a name."""
    import contextlib
    import sqlite3
    from urllib.parse import quote

    def planted(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name / "file"

    planted("plain").write_text(f"before {secret} after")
    planted("reversed").write_text(secret[::-1])
    planted("quoted").write_text(quote(secret, safe=""))
    planted("json").write_text(json.dumps({"a": secret}))
    planted("hex").write_text(secret.encode().hex())
    for offset in range(3):
        planted(f"base64-{offset}").write_bytes(base64.b64encode(b"u" * offset + secret.encode() + b"tail"))
    with zipfile.ZipFile(planted("zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.json", json.dumps(secret, ensure_ascii=False))
    planted("gzip").write_bytes(gzip.compress(secret.encode()))
    pd.DataFrame({"a": ["x"] * 50 + [secret]}).to_parquet(planted("parquet"))
    with contextlib.closing(sqlite3.connect(planted("sqlite"))) as store:
        store.execute("CREATE TABLE t (a TEXT)")
        store.execute("INSERT INTO t VALUES (?)", (secret,))
        store.commit()
    for folder in sorted(path for path in tmp_path.iterdir() if path.is_dir()):
        assert canaries.found(folder, [secret]), folder.name
    planted("clean").write_text("nothing")
    assert canaries.found(tmp_path / "clean", [secret]) == []


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "workers"])
def test_a_test_that_writes_the_canary_of_the_session_fails_it(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Every test of the suite runs under that search; here two do, and one of them leaks."""
    (tmp_path / "test_two.py").write_text(
        textwrap.dedent("""
        import os
        def test_one(tmp_path):
            (tmp_path / "fine").write_text("fine")
        def test_two(tmp_path):
            (tmp_path / "leak").write_text(os.environ["RECIPELINE_CANARY"])
        """)
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environ |= {"PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    results = []
    for chosen in ("test_one", "test_"):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "canaries", *workers, "--basetemp", tmp_path / f"base-{chosen}", "-k", chosen,
             "-c", os.devnull, "--rootdir", tmp_path, tmp_path / "test_two.py"],
            env=environ, capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        results.append((done.returncode, "a secret was written" in done.stdout))
        shutil.rmtree(tmp_path / f"base-{chosen}")  # or this session's own search would find it
    assert results == [(0, False), (1, True)]


def test_a_secret_is_masked_as_an_address_writes_it_and_as_it_reads() -> None:
    """`%2F` in a configured address is `/` in the header that a library makes of it."""
    logs.register_secret(SECRETS["MLFLOW_PASSWORD"])
    try:
        assert logs.mask("a Kanarie/mlflow+3 b Kanarie%2Fmlflow%2B3 c") == "a *** b *** c"
    finally:
        logs.forget_secrets()
