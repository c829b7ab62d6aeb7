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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from recipeline.errors import DataError, Problem, RecipeError, RecipelineError, did_you_mean
from recipeline.stores import files
from recipeline.stores.parameters import check_given

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
        with _explained(self.adapter, self.name):
            frame = self.adapter.read(self.query, self.params)
        return frame if columns is None else frame[self._known(columns, list(frame.columns))]

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        for batch in self._batches(rows):
            yield batch if columns is None else batch.select(self._known(columns, batch.schema.names))

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with _explained(self.adapter, self.name):
            if not hasattr(self.adapter, "batches"):  # as `BaseAdapter` does it
                import pyarrow as pa

                yield from pa.Table.from_pandas(self.adapter.read(self.query, self.params), preserve_index=False).to_batches(rows)
            else:
                yield from self.adapter.batches(self.query, rows, self.params)

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


@contextmanager
def _explained(adapter: Any, name: str) -> Iterator[None]:
    """An error says which source it is about; whatever an adapter that is not ours raises is one of the data, and no bug of ours."""
    try:
        yield
    except RecipelineError as error:
        error.where = error.where or name
        raise
    except MemoryError:
        raise
    except Exception as error:
        if type(adapter).__module__.partition(".")[0] == "recipeline":
            raise
        what = str(error).strip().partition("\n")[0] or "no reason given"
        hint = "see the log for the traceback"
        raise DataError(f"{type(error).__name__}: {what}", hint=hint, slug="adapter-failed", where=type(adapter).__name__) from error


Source: TypeAlias = FileSource | QuerySource
"""`.read(columns=None) -> frame`, `.batches(rows, columns=None)`, `.count()`, `.fingerprint()`, `.name`."""


@dataclass(frozen=True)
class _Query:
    """A question for an adapter, before anything is built.

    name      how messages call it
    adapter   its name in the configuration
    text      as written; where `path` is given, it stands in that file instead
    table     the text is the name of a table
    document  under which name the artifact keeps the text
    """

    name: str
    adapter: str
    text: str = field(default="", repr=False)
    path: Path | None = None
    table: bool = False
    document: str = ""


@dataclass(frozen=True)
class Places:
    """Where the data of one recipe are.

    project   the project's root; folder: the recipe's own
    sources   configuration `sources`: name -> {adapter?, uri | query | table}
    adapters  name -> an Adapter, a callable without arguments that builds one (called when it is needed),
              or {class_name, config} of one of the built-in two
    roots     prefixes below which other schemes than file:// are read
    kept      the folder in which an artifact keeps its queries: one that is there is taken before the project's
    environment  APP_ENV; empty where nobody said
    """

    project: Path
    folder: Path
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adapters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    roots: tuple[str, ...] = ()
    kept: Path | None = None
    environment: str = ""

    def resolve(self, uri: str | os.PathLike[str], params: Mapping[str, Any] | None = None) -> Source:
        """The source that `uri` means; nothing is read but the text of a `.sql` file.

        DataError (5) for a file that is nowhere, Refused (4) for a foreign address, RecipeError (3) for an unknown
        `source://` name or a missing adapter.
        """
        meant = self._meaning(os.fspath(uri).strip())
        if isinstance(meant, _Query):
            return self._asked(meant, params)
        path = files.local_path(meant)
        if path is None:
            source = FileSource(files.admit(meant, self._roots()), files.without_credentials(meant), self._options())
        else:
            source = FileSource(self.find(path), files.shown(meant))
        check_given(source.name, params or (), ())
        return source

    def parameters(self, uri: str | os.PathLike[str], params: Mapping[str, Any] | None = None) -> dict[str, bool]:
        """What the query behind `uri` reads from its parameters: name -> whether it cannot do without it. A file reads none.

        params  where they are given, the query is made of them and proved, as far as the dialect of its adapter is known

        Nothing is connected to. Raises as `resolve`, for everything that files and texts alone can show.
        """
        meant = self._meaning(os.fspath(uri).strip())
        if not isinstance(meant, _Query):
            return {}
        self._known_adapter(meant.adapter)
        if meant.table:
            return {}
        dialect = self._dialect(meant.adapter)
        if meant.path is None:
            return {} if dialect is None else _text_parameters(meant.text, meant.name, dialect, params)
        path = self._document(meant.path)
        if not path.name.endswith(".j2"):
            text = _decoded(path, meant.name)
            return {} if dialect is None else _text_parameters(text, meant.name, dialect, params)
        return _template_parameters(path, self.show(path), dialect, params)

    def _meaning(self, text: str) -> _Query | str:
        """A query, or the address of a file."""
        if text.lower().startswith("source://"):
            return self._configured(text[len("source://") :].strip("/"))
        if _QUERY.match(text) and not self._names_a_file(text):
            return _Query("the inline query", "sql", text, document="query.sql")
        if "\n" in text:
            raise DataError("is neither a path nor a query", slug="bad-source", where="source_uri")
        path = files.local_path(text)
        if path is not None and path.name.endswith(_QUERY_FILES):
            return _Query(str(path), "sql", path=path)
        return text

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
        self._known_adapter(name)
        given = self.adapters[name]
        if isinstance(given, Mapping):
            return self._builtin(name, given)
        built: Adapter = given if hasattr(given, "read") else given()
        return built

    def _known_adapter(self, name: str) -> None:
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

    def _dialect(self, name: str) -> str | None:
        """sqlglot's name of the dialect of an adapter, as far as it can be told without building it."""
        from recipeline.stores.gate import DIALECTS

        given = self.adapters[name]
        if not isinstance(given, Mapping):
            dialect = getattr(given, "dialect", None)
            return dialect if isinstance(dialect, str) else None
        try:
            address = dict(given.get("config") or {}).get("connection_uri", "")
        except RecipeError:  # a variable that is not set: who only looks does not need it
            return None
        text = address.get_secret_value() if hasattr(address, "get_secret_value") else str(address)
        return DIALECTS.get(text.partition(":")[0].partition("+")[0].lower())

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

    def _configured(self, name: str) -> _Query | str:
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
            return self._meaning(text)
        adapter = str(entry.get("adapter", "sql"))
        if kind == "query" and files.local_path(text) is not None and text.endswith(_QUERY_FILES):
            return _Query(text, adapter, path=Path(text))
        return _Query(label, adapter, text, table=kind == "table")

    def _document(self, path: Path) -> Path:
        """The file of a query: the artifact's copy, where this is its place, else the project's."""
        copy = None if self.kept is None else self.kept / path.name
        return copy if copy is not None and copy.is_file() else self.find(path)

    def _asked(self, query: _Query, params: Mapping[str, Any] | None) -> QuerySource:
        path = None if query.path is None else self._document(query.path)
        reader = self.adapter(query.adapter)
        dialect = getattr(reader, "dialect", None)
        if path is not None and path.name.endswith(".j2"):
            from recipeline.stores.templates import compile_template

            if not isinstance(dialect, str):
                raise RecipeError("the adapter says no dialect to compile an SQL template for", hint="use a SqlAdapter", where=query.name)
            with _explained(reader, query.name):
                made = compile_template(path, params or {}, dialect=dialect, name=self.show(path))
            return QuerySource(reader, made.text, query.name, made.params, made.documents)
        text, documents = query.text, {query.document: query.text} if query.document else {}
        if path is not None:
            text = _decoded(path, query.name)
            documents = {path.name: text}
        if query.table:
            quote = getattr(reader, "table", None)
            text = quote(text) if quote else text
        if params and isinstance(dialect, str):
            from recipeline.stores.gate import placeholders

            check_given(query.name, params, placeholders(text, dialect))
        return QuerySource(reader, text, query.name, params, documents)

    def _storage(self) -> Mapping[str, Any]:
        given = self.adapters.get("storage")
        if isinstance(given, Mapping):
            return dict(given.get("config") or {})
        return {"roots": getattr(given, "roots", ()), **getattr(given, "options", {})}

    def _roots(self) -> tuple[str, ...]:
        return (*self.roots, *self._storage().get("roots", ()))

    def _options(self) -> dict[str, Any]:
        return {key: value for key, value in self._storage().items() if key not in ("roots", "project")}


def _decoded(path: Path, name: str) -> str:
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8", hint="save it as UTF-8", slug="bad-source", where=name) from None


def _text_parameters(text: str, name: str, dialect: str, params: Mapping[str, Any] | None) -> dict[str, bool]:
    """Of a query as it stands: each `:name` of it must be given."""
    from recipeline.stores.gate import placeholders, prove

    declared = placeholders(text, dialect)
    prove(text, dialect, declared if params is None else params)
    check_given(name, params or (), declared)
    return dict.fromkeys(declared, True)


def _template_parameters(path: Path, name: str, dialect: str | None, params: Mapping[str, Any] | None) -> dict[str, bool]:
    from recipeline.stores import templates

    declared = templates.parameters(path, name=name)
    if params is None and any(declared.values()):
        return declared
    try:
        if dialect is None:
            templates.render_only(path, params or {}, name=name)
        else:
            templates.compile_template(path, params or {}, dialect=dialect, name=name)
    except RecipeError as error:
        if params is not None or any(problem.slug != "missing-parameter" for problem in error.problems):
            raise  # without parameters, one that is missing is no mistake yet
    return declared


_QUERY_FILES = (".sql", ".sql.j2")
_BUILTIN = ("SqlAdapter", "StorageAdapter")
