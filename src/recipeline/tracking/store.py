"""Where runs are remembered: what `mlflow.tracking_uri` means for a project, and what this machine knows by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from recipeline import logs
from recipeline.errors import Problem, RecipeError
from recipeline.stores import files

if TYPE_CHECKING:
    from recipeline.settings import Settings


@dataclass(frozen=True)
class Store:
    """What `mlflow.tracking_uri` means for this project.

    uri       as MLflow takes it, credentials included
    kind      sqlite: a file of ours; database and folder: other local stores; server: HTTP and whatever plugins bring
    root      where the artifacts of new experiments go: a local path for the first three kinds, or an address; empty: the server knows
    """

    uri: str = field(repr=False)
    kind: Literal["sqlite", "database", "folder", "server"]
    project: Path
    root: str
    database: Path | None
    experiment: str

    @property
    def shown(self) -> str:
        return files.shown(self.database) if self.database else files.without_credentials(self.uri)

    @property
    def spool(self) -> Path:
        return self.project / ".recipeline" / "spool"

    @property
    def runs(self) -> Path:
        return self.project / ".recipeline" / "runs"


def store_of(settings: Settings, experiment: str | None = None) -> Store:
    project, configured = settings.project.resolve(), settings.mlflow
    uri, name = configured.tracking_uri, experiment or configured.experiment_name
    root = configured.artifact_location or ""
    if root and "://" not in root:
        root = str(project / root)
    scheme = urlsplit(uri).scheme
    if scheme == "sqlite":
        path = unquote(uri.partition(":///")[2].partition("?")[0])
        if path in {"", ":memory:"}:
            raise misconfigured(f"{uri} names no file", "write sqlite:///mlflow.db")
        database = (project / path).resolve()
        return Store(f"sqlite:///{database}", "sqlite", project, root or str(database.parent / "mlruns"), database, name)
    if scheme.partition("+")[0] in {"postgresql", "mysql", "mssql"}:
        return Store(uri, "database", project, root or str(project / "mlruns"), None, name)
    if scheme in {"", "file"}:
        folder = (project / (path_of(uri) or uri)).resolve()
        return Store(folder.as_uri(), "folder", project, root or str(folder), None, name)
    return Store(uri, "server", project, root, None, name)


def misconfigured(message: str, hint: str, slug: str = "tracking") -> RecipeError:
    return RecipeError(Problem(slug, ("mlflow", "tracking_uri"), logs.mask(message), hint, file="configuration"))


def path_of(uri: str) -> Path | None:
    """The local path of an artifact URI; None where the artifacts are elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "" or not uri.startswith(f"{parts.scheme}:"):
        return Path(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def note(store: Store, run_id: str, **facts: Any) -> None:
    """What this machine knows of a remote or spooled run, beside its artifact: enough to find it without the server."""
    files.write_json(store.runs / run_id / "run.json", {"run_id": run_id, **facts_of(store, run_id), **facts})


def facts_of(store: Store, run_id: str) -> dict[str, Any]:
    path = store.runs / run_id / "run.json"
    known: dict[str, Any] = files.read_json(path) if path.is_file() else {}
    return known
