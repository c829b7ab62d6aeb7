"""CPU of a server per request: scaler and logistic regression, 30 features, one row; ours beside `mlflow models serve`.

Both servers answer the same artifact, one worker each; the client's own CPU is not counted. Requests go over one kept
connection, in interleaved rounds; the cost of a round is what the server's processes spent between its first and last answer.
Goal: at most 1/12 of the peer's, where the peer can be started.

    python -m bench.http_cost [--requests 400] [--rounds 5] [--rows 1]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from sklearn.datasets import load_breast_cancer

import recipeline
from recipeline import settings

GOAL = 1 / 12


class Server:
    """A process that listens on 127.0.0.1, with everything that it starts; stopped by its own id."""

    def __init__(self, command: list[str], folder: Path, *, port: int | None, environ: Mapping[str, str] | None = None) -> None:
        self.log = (folder / f"server-{len(list(folder.glob('server-*')))}.log").open("w+")
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **single, **(environ or {})}, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.port = port

    def wait(self, path: str, seconds: float = 120) -> bool:
        """Whether it answered 200 on `path`; its port is read from what it prints where it chose one itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if self.port is None:
                found = re.search(r"http://127\.0\.0\.1:([1-9]\d*)", Path(self.log.name).read_text())
                self.port = int(found[1]) if found else None
            else:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                    connection.request("GET", path)
                    if connection.getresponse().status == 200:
                        return True
                except OSError:
                    pass  # not yet: it is asked again until the time is over
            time.sleep(0.1)
        return False

    def cpu(self) -> float:
        """Seconds of user and system time of all its processes."""
        root = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (root, *root.children(recursive=True)))

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(30)
        self.log.close()


def cost(server: Server, path: str, body: bytes, requests: int) -> float:
    """Milliseconds of the server's CPU per request."""
    assert server.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    before = server.cpu()
    for _ in range(requests):
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {said[:300]!r}")
    spent = server.cpu() - before
    connection.close()
    return spent * 1000 / requests


def trained(folder: Path) -> tuple[str, Path, list[dict[str, Any]]]:
    """Run id and artifact of the model in a project of its own, and rows to ask about."""
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.rename(columns=lambda name: name.replace(" ", "_")).assign(target=bunch.target)
    frame.to_parquet(folder / "rows.parquet")
    (folder / "config").mkdir()
    (folder / "config" / "base.yaml").write_text("execution: {report: false}\napi_serving: {enabled: true}\n")
    (folder / "config" / "local.yaml").write_text("")
    recipe = {
        "name": "cost",
        "model": {
            "class_path": "sklearn.linear_model.LogisticRegression",
            "hyperparameters": {"max_iter": 1000},
            "loader": {"name": "default_loader", "source_uri": "rows.parquet"},
            "preprocessor": {"name": "default_preprocessor", "params": {"numerical_strategy": "standard"}},
            "data_interface": {"task_type": "classification", "target_col": "target"},
        },
    }
    run = recipeline.train(recipe, settings=settings.load(project=folder))
    return run.id, run.artifact, frame.drop(columns="target").to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run_id, model, records = trained(folder)
        rows = records[: options.rows]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ours = Server([sys.executable, "-m", "recipeline", "serve-api", "--run-id", run_id, "--port", "0"], folder, port=None)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # it starts `uvicorn` by its name
        peer = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1"]
        theirs = Server([*peer, "-p", str(port), "-w", "1"], folder, port=port, environ={"PYTHONWARNINGS": "ignore", "PATH": path})
        try:
            if not ours.wait("/health/ready"):
                raise RuntimeError(f"our server did not start:\n{Path(ours.log.name).read_text()[-2000:]}")
            beside = theirs.wait("/ping")
            asked = (json.dumps(rows).encode(), json.dumps({"dataframe_records": rows}).encode())
            pairs = []
            for number in range(options.rounds + 1):
                one = cost(ours, "/predict", asked[0], options.requests)
                other = cost(theirs, "/invocations", asked[1], options.requests) if beside else float("nan")
                if number:  # the first round warms up
                    pairs.append((one, other))
            why = "" if beside else Path(theirs.log.name).read_text()[-3000:]
        finally:
            ours.stop()
            theirs.stop()
    mine = statistics.median(one for one, _ in pairs)
    print(f"recipeline serve-api     {mine:7.3f} ms of CPU per request of {len(rows)} rows")
    result: dict[str, Any] = {"bench": "http_cost", "rows": len(rows), "ours_ms": round(mine, 3)}
    if beside:
        peer_ms, ratio = statistics.median(other for _, other in pairs), statistics.median(one / other for one, other in pairs)
        print(f"mlflow models serve      {peer_ms:7.3f} ms   ratio {ratio:.4f}   goal {GOAL:.4f}")
        result |= {"mlflow_ms": round(peer_ms, 3), "ratio": round(ratio, 4), "passed": ratio <= GOAL}
    else:
        print(f"mlflow models serve      did not start:\n{why.strip()}")
        result |= {"mlflow_ms": None, "passed": None}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
