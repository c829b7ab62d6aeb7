"""One step of a run, told to MLflow; each may be told again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipeline.stores import files
from recipeline.tracking.store import path_of
from recipeline.tracking.words import LONGEST, MODEL, batches, cut

log = logging.getLogger("recipeline.tracking")


class Writer:
    """Steps, done through MLflow's client; each may be done again.

    model  where the artifact stands when the run's artifacts are local; None for a remote store
    """

    def __init__(self, client: Any, run: Any) -> None:
        self.client, self.run_id = client, run.info.run_id
        self.params: dict[str, str] = dict(run.data.params)
        self.told = {(metric.key, metric.step): metric.value for metric in run.data._metric_objs}
        root = path_of(run.info.artifact_uri)
        self.model = root / MODEL if root is not None else None

    def do(self, step: Mapping[str, Any], source: Path | None) -> None:
        getattr(self, f"_{step['do']}")(step, source)

    def _tags(self, step: Mapping[str, Any], _: Path | None) -> None:
        from mlflow.entities import RunTag

        for some in batches(step["tags"]):
            self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in some.items()])

    def _params(self, step: Mapping[str, Any], _: Path | None) -> None:
        from mlflow.entities import Param

        fresh = {key: value for key, value in step["params"].items() if key not in self.params}
        for some in batches(fresh):
            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in some.items()])
            self.params |= some
        # A parameter of a run cannot change. Where a resumed run comes to another value, both are to be seen.
        changed = {f"recipeline.param.{key}"[: LONGEST["key"]]: value for key, value in step["params"].items() if self.params[key] != value}
        if changed:
            log.warning("run %s: parameters differ from those it began with: %s", self.run_id, ", ".join(sorted(changed)))
            self._tags({"tags": {key: cut(value, LONGEST["tag"]) for key, value in changed.items()}}, None)

    def _metrics(self, step: Mapping[str, Any], _: Path | None) -> None:
        from mlflow.entities import Metric

        at = int(step["step"])
        fresh = {key: float(value) for key, value in step["metrics"].items()}
        fresh = {key: value for key, value in fresh.items() if self.told.get((key, at)) != value}
        for some in batches(fresh):
            self.client.log_batch(self.run_id, metrics=[Metric(key, value, int(step["time"]), at) for key, value in some.items()])
        self.told |= {(key, at): value for key, value in fresh.items()}

    def _file(self, step: Mapping[str, Any], source: Path | None) -> None:
        assert source is not None
        if self.model is not None:
            files.write_bytes(self.model.parent / step["name"], source.read_bytes())
        else:
            self.client.log_artifact(self.run_id, str(source))

    def _publish(self, _: Mapping[str, Any], source: Path | None) -> None:
        assert source is not None
        if self.model is None:
            self.client.log_artifacts(self.run_id, str(source), MODEL)
        elif source.resolve() != self.model.resolve():
            put_folder(source, self.model)

    def _finish(self, step: Mapping[str, Any], _: Path | None) -> None:
        self.client.set_terminated(self.run_id, step["status"], int(step["time"]))


def put_folder(source: Path, target: Path) -> None:
    """A copy of a folder, there whole or not at all; one with the same manifest is left as it is."""
    if target.is_dir():
        ours, theirs = source / "manifest.json", target / "manifest.json"
        if ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes():
            return
        shutil.rmtree(target)
    with files.atomic_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
