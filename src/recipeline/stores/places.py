"""What a `source_uri` means: a file, an address, a query, or a name that configuration explains.

data/churn.parquet, file://data/x.csv   a file, tried from the recipe's folder, then from the project's
s3://bucket/x.parquet                   through fsspec, below the configured roots only
source://customers                      config `sources.customers`: {adapter, uri | query | table}
sql/spine.sql, SELECT …                 a query for the adapter named `sql`
sql/spine.sql.j2                        a template of one: `recipeline.stores.templates`
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from recipeline.errors import DataError, Problem, RecipeError, did_you_mean
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from recipeline.contracts import Adapter

    Frame: TypeAlias = pd.DataFrame

# The first word decides: what does not select is taken for a query too, so that the gate refuses it by its name.
_QUERY = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*"
    r"(?:select|with|values|insert|update|delete|merge|replace|drop|create|alter|truncate|attach|detach|pragma|copy|call|exec|execute"
    r"|grant|revoke|vacuum|explain|show|set|begin|commit|do|load|install)\b[\s(*]",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class FileSource:
    """Rows in a file. `place` is a path that exists, or an admitted URI; `name` is how messages call it."""

    place: Path | str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def read(self, columns: Sequence[str] | None = None) -> Frame:
        return files.read_frame(self.place, columns, name=self.name, options=self.options)

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        return files.batches(self.place, rows, columns, name=self.name, options=self.options)

    def count(self) -> int | None:
        """Rows, where the file says so without being read."""
        return files.count_rows(self.place, name=self.name, options=self.options)

    def fingerprint(self) -> str | None:
        """SHA-256 of the bytes."""
        return files.sha256(self.place, options=self.options)


@dataclass(frozen=True)
class QuerySource:
    """Rows that an adapter gives for `query` (SQL, or whatever its adapter understands).

    documents  file name -> text: where the query comes from, as its author wrote it
    """

    adapter: Adapter
    query: str
    name: str
    params: Mapping[str, Any] | None = None
    documents: Mapping[str, str] = field(default_factory=dict, repr=False)

    def read(self, columns: Sequence[str] | None = None) -> Frame:
        frame = self.adapter.read(self.query, self.params)
        return frame if columns is None else frame[self._known(columns, list(frame.columns))]

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        for batch in self.adapter.batches(self.query, rows, self.params):
            yield batch if columns is None else batch.select(self._known(columns, batch.schema.names))

    def count(self) -> int | None:
        return None

    def fingerprint(self) -> str | None:
        """None: only reading the rows tells what they are."""
        return None

    def _known(self, columns: Sequence[str], names: Sequence[str]) -> list[str]:
        for column in columns:
            if column not in names:
                raise DataError(f"has no column {column}", hint=did_you_mean(column, names), slug="missing-column", where=self.name)
        return list(columns)


Source: TypeAlias = FileSource | QuerySource
"""`.read(columns=None) -> frame`, `.batches(rows, columns=None)`, `.count()`, `.fingerprint()`, `.name`."""


@dataclass(frozen=True)
class Places:
    """Where the data of one recipe are.

    project   the project's root; folder: the recipe's own
    sources   configuration `sources`: name -> {adapter?, uri | query | table}
    adapters  name -> an Adapter, a callable without arguments that builds one (called when it is needed),
              or {class_name, config} of one of the built-in two
    roots     prefixes below which other schemes than file:// are read
    """

    project: Path
    folder: Path
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adapters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    roots: tuple[str, ...] = ()

    def resolve(self, uri: str | os.PathLike[str], params: Mapping[str, Any] | None = None) -> Source:
        """The source that `uri` means; nothing is read but the text of a `.sql` file.

        DataError (5) for a file that is nowhere, Refused (4) for a foreign address, RecipeError (3) for an unknown
        `source://` name or a missing adapter.
        """
        text = os.fspath(uri).strip()
        if text.lower().startswith("source://"):
            return self._configured(text[len("source://") :].strip("/"), params)
        if _QUERY.match(text) and not self._names_a_file(text):
            return QuerySource(self.adapter("sql"), text, "the inline query", params, {"query.sql": text})
        if "\n" in text:
            raise DataError("is neither a path nor a query", slug="bad-source", where="source_uri")
        path = files.local_path(text)
        if path is None:
            return FileSource(files.admit(text, self._roots()), files.without_credentials(text), self._options())
        if path.name.endswith((".sql", ".sql.j2")):
            return self._query_file(path, params)
        return FileSource(self.find(path), files.shown(text))

    def _names_a_file(self, text: str) -> bool:
        """`copy (2).csv` begins like a statement; what ends like a file and is one is no query."""
        return (
            text.lower().endswith(files.SUFFIXES)
            and "\n" not in text
            and any((top / text).is_file() for top in (self.folder, self.project))
        )

    def find(self, path: str | os.PathLike[str]) -> Path:
        """An existing file: from the recipe's folder, then from the project's root; the error shows both."""
        candidates = list(dict.fromkeys([self.folder / path, self.project / path]))
        for candidate in candidates:
            if candidate.exists():
                return candidate
        tried = " and ".join(self.show(candidate) for candidate in candidates)
        raise DataError(f"there is no such file; tried {tried}", slug="no-such-file", where=files.shown(path))

    def show(self, path: Path) -> str:
        """A path as messages have it: relative to the project where it is below."""
        try:
            return str(Path(os.path.abspath(path)).relative_to(os.path.abspath(self.project)))  # noqa: PTH100 - keeps links
        except ValueError:
            return files.shown(path)

    def adapter(self, name: str) -> Adapter:
        """The adapter of that name, built now if it was not."""
        if name not in self.adapters:
            hint = f"add data_adapters.adapters.{name} to the configuration; {did_you_mean(name, self.adapters)}" if self.adapters else ""
            raise RecipeError(
                Problem(
                    "no-adapter",
                    ("data_adapters", "adapters", name),
                    f"no adapter named {name} is configured",
                    hint or f"add data_adapters.adapters.{name} to the configuration",
                )
            )
        given = self.adapters[name]
        if isinstance(given, Mapping):
            return self._builtin(name, given)
        built: Adapter = given if hasattr(given, "read") else given()
        return built

    def _builtin(self, name: str, given: Mapping[str, Any]) -> Adapter:
        config = dict(given.get("config") or {})
        match given.get("class_name"):
            case "SqlAdapter":
                from recipeline.stores.sql import SqlAdapter

                return SqlAdapter(**{"project": self.project, **config})
            case "StorageAdapter":
                return files.StorageAdapter(**{"project": self.project, "roots": self.roots, **config})
            case other:
                key = ("data_adapters", "adapters", name, "class_name")
                problem = Problem("unknown-name", key, f"there is no adapter {other}", did_you_mean(str(other), _BUILTIN), at="value")
                raise RecipeError(problem)

    def _configured(self, name: str, params: Mapping[str, Any] | None) -> Source:
        if name not in self.sources:
            hint = f"add sources.{name} to the configuration, or {did_you_mean(name, self.sources)}"
            raise RecipeError(Problem("unknown-source", ("sources", name), f"no source named {name} is configured", hint))
        entry = {key: value for key, value in dict(self.sources[name]).items() if value is not None}
        label = f"source://{name}"
        given = [key for key in ("uri", "query", "table") if key in entry]
        if len(given) != 1:
            raise RecipeError(Problem("bad-source", ("sources", name), "needs exactly one of uri, query, table"))
        unknown = set(entry) - {"uri", "query", "table", "adapter"}
        if unknown:
            raise RecipeError(Problem("unknown-key", ("sources", name, min(unknown)), "unknown key", "use adapter and uri, query or table"))
        kind, text = given[0], str(entry[given[0]])
        if kind == "uri" and str(entry.get("adapter", "storage")) == "storage":
            if text.lower().startswith("source://"):
                raise RecipeError(Problem("bad-source", ("sources", name, "uri"), "a source cannot name another source", at="value"))
            return self.resolve(text, params)
        adapter = self.adapter(str(entry.get("adapter", "sql")))
        if kind == "table":
            quote = getattr(adapter, "table", None)
            return QuerySource(adapter, quote(text) if quote else text, label, params)
        if kind == "query" and files.local_path(text) is not None and text.endswith((".sql", ".sql.j2")):
            return self._query_file(Path(text), params, adapter)
        return QuerySource(adapter, text, label, params)

    def _query_file(self, path: Path, params: Mapping[str, Any] | None, adapter: Adapter | None = None) -> QuerySource:
        found = self.find(path)
        reader = adapter or self.adapter("sql")
        if path.name.endswith(".j2"):
            from recipeline.stores.templates import compile_template

            dialect = getattr(reader, "dialect", None)
            if not isinstance(dialect, str):
                raise RecipeError("the adapter says no dialect to compile an SQL template for", hint="use a SqlAdapter", where=str(path))
            made = compile_template(found, params or {}, dialect=dialect, name=self.show(found))
            return QuerySource(reader, made.text, str(path), made.params, made.documents)
        try:
            text = files.read_bytes(found).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError("is not UTF-8", hint="save it as UTF-8", slug="bad-source", where=str(path)) from None
        return QuerySource(reader, text, str(path), params, {found.name: text})

    def _storage(self) -> Mapping[str, Any]:
        given = self.adapters.get("storage")
        if isinstance(given, Mapping):
            return dict(given.get("config") or {})
        return {"roots": getattr(given, "roots", ()), **getattr(given, "options", {})}

    def _roots(self) -> tuple[str, ...]:
        return (*self.roots, *self._storage().get("roots", ()))

    def _options(self) -> dict[str, Any]:
        return {key: value for key, value in self._storage().items() if key not in ("roots", "project")}


_BUILTIN = ("SqlAdapter", "StorageAdapter")
