"""Databases (the only module that imports SQLAlchemy).

A query passes three fences: the gate proves one SELECT that only reads, values are bound, and the session can do
nothing but read, for a limited time. Rows arrive in batches, so that memory does not grow with the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.pool import NullPool, QueuePool

from recipeline.errors import DataError, Exhausted, RecipeError, RecipelineError, Refused, Unavailable, UsageError, did_you_mean
from recipeline.stores import files
from recipeline.stores.gate import DIALECTS, parse_select_columns, prove, with_lists

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    Frame: TypeAlias = pd.DataFrame

__all__ = ["SqlAdapter", "StateTable", "parse_select_columns", "prove"]

FETCH = 8192  # rows that are Python objects at a time


class SqlAdapter:
    """Rows of an SQL database, read by SELECT.

    connection_uri  SQLAlchemy's URL: `sqlite:///data/churn.db`; a relative SQLite file starts from `project`
    timeout         seconds that the database may work on one statement (the reader's own time does not count)
    writable        whether `write` is allowed; reading sessions are read-only in any case

    This version opens SQLite. Errors: DataError (5) for a missing file, table or column, mixed types, two columns of
    one name; Refused (4) for what only reading does not need; Unavailable (6); Exhausted (7) when the time is up.
    """

    def __init__(
        self,
        connection_uri: Any,
        *,
        timeout: float = 300.0,
        writable: bool = False,
        project: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        text = connection_uri.get_secret_value() if hasattr(connection_uri, "get_secret_value") else str(connection_uri)
        try:
            url = sa.make_url(text)
        except sqlalchemy.exc.ArgumentError:  # its message shows the URL, password and all
            raise RecipeError("connection_uri is not an address of a database", hint="write it as sqlite:///data/x.db") from None
        if not timeout > 0:
            raise RecipeError(f"timeout is a number of seconds above 0, got {timeout}")
        backend = url.get_backend_name()
        if backend not in _SESSIONS:
            hint = did_you_mean(backend, _SESSIONS)
            raise RecipeError(f"{backend} databases are not opened by this version: no read-only session is known for them", hint=hint)
        self.timeout, self.writable = timeout, writable
        self.dialect = DIALECTS[backend]
        self._session = _SESSIONS[backend](url, Path(project) if project is not None else Path(), timeout, clock)

    def __repr__(self) -> str:
        return f"<SqlAdapter {self._session.label}>"

    def read(self, query: str, params: Mapping[str, Any] | None = None) -> Frame:
        """All rows as a frame. `:name` in the query is bound to `params["name"]`, a list in `IN (:name)`."""
        import pyarrow as pa

        found = list(self.batches(query, FETCH, params))
        return files.to_frame(pa.Table.from_batches(found))

    def batches(self, query: str, rows: int, params: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in record batches of exactly `rows` (the last may be shorter), all of one schema and one snapshot.

        No rows give one empty batch.
        """
        if rows < 1:
            raise UsageError(f"a batch needs at least one row, got {rows}", slug="bad-value", where="execution.batch.rows")
        values = dict(params or {})
        text = prove(query, self.dialect, values)
        standing = set(re.findall(r":(\w+)", text))
        used = {name: value for name, value in values.items() if name in standing}
        lists = {name: list(value) for name, value in used.items() if isinstance(value, (list, tuple))}
        if lists:
            text = with_lists(text, self.dialect, lists, self._session.LIST)
            used |= {name: self._session.listed(name, items) for name, items in lists.items()}
        return self._stream(text, rows, used)

    def table(self, name: str) -> str:
        """`SELECT * FROM` the table, its name quoted as this database does."""
        parts = name.split(".")
        if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[^\W\d][\w$]*", part) for part in parts):
            raise RecipeError("is not a plain table name", where="table")
        return "SELECT * FROM " + ".".join(self._session.quoted(part) for part in parts)  # noqa: S608 - plain names, quoted

    def write(self, frame: Frame, destination: str, *, key: str) -> None:
        """Append the rows to the table `destination`, made where it is missing, in one transaction.

        `key` names what the rows are: written once, the same key does nothing a second time. Columns must be those
        of the table, else DataError. Refused unless the adapter is `writable`.
        """
        if not self.writable:
            raise Refused("this adapter only reads", hint="set writable: true in its configuration", slug="read-only-adapter")
        self.table(destination)
        with self._session.writing() as connection, _translated(self._session):
            _append(connection, frame, destination, key)

    def _stream(self, text: str, rows: int, params: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with self._session.reading() as (connection, watch), _translated(self._session):
            with watch.running():
                types = self._session.types(connection, text, params)
                result = connection.execution_options(stream_results=True).exec_driver_sql(text, dict(params))
            if not result.returns_rows:
                raise Refused("the query gives no rows", hint="only rows that a SELECT reads are taken", slug="sql-not-select")
            names = [str(column[0]) for column in result.cursor.description]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                hint = "name them apart with AS"
                raise DataError(f"the query gives more than one column named {', '.join(twice)}", hint=hint, slug="duplicate-column")
            schema = pa.schema([(name, _arrow_type(name, kinds)) for name, kinds in zip(names, types, strict=True)])
            yield from files.rechunk(_chunks(result, schema, watch), rows, schema)


def _chunks(result: Any, schema: pa.Schema, watch: _Stopwatch) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    while True:
        with watch.running():
            fetched = result.fetchmany(FETCH)
        if not fetched:
            return
        arrays = [_array(values, field) for values, field in zip(zip(*fetched, strict=True), schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Stopwatch:
    """The database's own time on one statement: it stands while the reader works on what it has."""

    def __init__(self, limit: float, clock: Callable[[], float]) -> None:
        self.limit, self._clock = limit, clock
        self._spent = 0.0
        self._since: float | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._since = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - self._since
            self._since = None

    def late(self) -> bool:
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._spent + running > self.limit


class _Sqlite:
    """A read-only SQLite session: `mode=ro`, `query_only`, an authorizer that knows reading only, a clock.

    Each closes a hole of the others: without the authorizer ATTACH writes a new file, and `query_only` can be
    switched off by a statement.
    """

    LIST = "SELECT +value FROM json_each(:{})"  # + takes the column's affinity away: compared as a bound value would be

    _ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
    _FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer"})

    def __init__(self, url: sa.URL, project: Path, timeout: float, clock: Callable[[], float]) -> None:
        name = url.database
        if not name or name == ":memory:" or name.startswith("file:"):
            raise RecipeError("connection_uri names no SQLite file", hint="write it as sqlite:///data/x.db")
        self.path = project / name
        self.label = files.shown(name)
        self._timeout, self._clock = timeout, clock

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def listed(self, name: str, items: list[Any]) -> str:
        """A list as one value: SQLite binds 32,766 at most. Fractions would lose their last bit in its JSON."""
        if not all(isinstance(item, str) or (isinstance(item, int) and abs(item) < 2**63) for item in items):
            raise RecipeError(f":{name} is a list of other than texts and whole numbers of 64 bits", slug="sql-value")
        return json.dumps(items, ensure_ascii=False)

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[sa.Connection, _Stopwatch]]:
        """A connection in one transaction, so that everything read is of one moment."""
        if not self.path.is_file():
            raise DataError("there is no such database", slug="no-such-file", where=self.label)
        with self._engine("ro") as engine, _translated(self), engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000_000)  # bytes of one value
            raw.execute("PRAGMA query_only = ON")
            raw.execute("PRAGMA trusted_schema = OFF")
            with contextlib.suppress(sqlite3.OperationalError):  # an SQLite without JSON says so when a list is bound
                raw.execute("SELECT 1 FROM json_each('[]')")  # the first use wants more than the authorizer allows
            raw.execute("BEGIN")
            raw.execute("SELECT count(*) FROM sqlite_master").close()  # BEGIN alone neither opens the file nor fixes the moment
            watch = _Stopwatch(self._timeout, self._clock)
            raw.set_authorizer(self._authorize)
            raw.set_progress_handler(watch.late, 10_000)
            try:
                yield connection, watch
            finally:
                raw.set_progress_handler(None, 0)
                raw.set_authorizer(None)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self._engine("rwc") as engine, _translated(self), engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def types(self, connection: sa.Connection, text: str, params: Mapping[str, Any]) -> list[set[str]]:
        """Columns have no types in SQLite, values do: which ones each column holds, asked before the rows are read."""
        width = len(connection.exec_driver_sql(f"SELECT * FROM (\n{text}\n) LIMIT 0", dict(params)).keys())  # noqa: S608 - proved
        names = [f"c{index}" for index in range(width)]  # their own may be anything, and twice the same
        asked = ", ".join(f"group_concat(DISTINCT typeof({name}))" for name in names)
        counted = f"WITH q({', '.join(names)}) AS (\n{text}\n) SELECT {asked} FROM q"  # noqa: S608 - proved
        return [set((kinds or "").split(",")) - {"", "null"} for kinds in connection.exec_driver_sql(counted, dict(params)).one()]

    def explain(self, error: sqlite3.Error | BaseException) -> RecipelineError:
        """What the driver says, without the values that it shows."""
        code = str(getattr(error, "sqlite_errorname", "") or "")
        text = str(error)
        if code == "SQLITE_INTERRUPT":
            return Exhausted(f"the query took longer than {self._timeout:g} s", slug="query-timeout", where=self.label)
        if code.startswith(("SQLITE_AUTH", "SQLITE_READONLY")):
            return Refused("the query does more than read", slug="sql-refused", where=self.label)
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return DataError("is not a readable SQLite database", slug="damaged-file", where=self.label)
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Unavailable("is locked by another program", slug="database-locked", where=self.label)
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM")):
            return DataError("may not be opened", slug="forbidden-file", where=self.label)
        if code.startswith(("SQLITE_FULL", "SQLITE_NOMEM")):
            return Exhausted("out of disk or memory", slug="disk-full", where=self.label)
        # Of what the driver says only names are taken: bare words of the text, never a quoted one.
        known = re.match(r'(no such (table|column|function)|ambiguous column name): [\w.]+$|near "[A-Za-z_]\w*": syntax error$', text)
        if known:
            return DataError(f"the query: {known[0]}", slug="sql-name", where=self.label)
        return DataError(f"the database refused the query ({code or type(error).__name__})", slug="sql-failed", where=self.label)

    @contextlib.contextmanager
    def _engine(self, mode: str) -> Iterator[sa.Engine]:
        address = f"file:{quote(str(self.path.absolute()))}?mode={mode}"
        engine = sa.create_engine(
            "sqlite+pysqlite://",
            # The isolation level None leaves transactions to us; batches may be read in another thread than they began in.
            creator=lambda: sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False),
            poolclass=NullPool,
            hide_parameters=True,
        )
        try:
            yield engine
        finally:
            engine.dispose()

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action not in self._ALLOWED:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in self._FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and (first or "").lower().startswith("sqlite_"):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


_SESSIONS: dict[str, Any] = {"sqlite": _Sqlite}
"""How to open a read-only session, by SQLAlchemy's name of the database. Without one, a database is not opened."""


@contextlib.contextmanager
def _translated(session: Any) -> Iterator[None]:
    """Errors of SQLAlchemy and the driver as ours; theirs show values."""
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        raise session.explain(error.orig) from None
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        raise session.explain(error) from None


_KINDS = {"integer": "int64", "real": "double", "text": "string", "blob": "binary"}


def _arrow_type(name: str, kinds: set[str]) -> pa.DataType:
    """The type of a column that holds values of these SQLite kinds: numbers may mix, others may not."""
    import pyarrow as pa

    if kinds <= {"integer", "real"}:
        return pa.int64() if kinds == {"integer"} else pa.float64()
    if len(kinds) > 1:
        what = f"holds {' and '.join(sorted(kinds))}"
        raise DataError(what, hint="CAST it to one of them in the query", slug="mixed-types", where=f"column {name}")
    return {"text": pa.string(), "blob": pa.binary()}[min(kinds)]


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, type=field.type)
    except pa.ArrowInvalid:
        if pa.types.is_floating(field.type):  # whole numbers beyond 2**53 among fractions
            return pa.array([None if value is None else float(value) for value in values], type=field.type)
        raise DataError(f"holds values that are not {field.type}", slug="mixed-types", where=f"column {field.name}") from None


def _append(connection: sa.Connection, frame: Frame, destination: str, key: str) -> None:
    """Rows and the record of their key, in the transaction of `connection`."""
    import pandas as pd

    metadata = sa.MetaData()
    written = sa.Table(
        "recipeline_written",
        metadata,
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("destination", sa.String(256), primary_key=True),
        sa.Column("rows", sa.BigInteger, nullable=False),
    )
    written.create(connection, checkfirst=True)
    if connection.execute(sa.select(written.c.rows).where(written.c.key == key, written.c.destination == destination)).first():
        return
    schema, _, name = destination.rpartition(".")
    columns = [sa.Column(str(column), _sql_type(frame[column])) for column in frame.columns]
    table = sa.Table(name, metadata, *columns, schema=schema or None)
    if sa.inspect(connection).has_table(name, schema=schema or None):
        there = {column["name"] for column in sa.inspect(connection).get_columns(name, schema=schema or None)}
        if there != {column.name for column in columns}:
            known = ", ".join(sorted(there))
            raise DataError(f"the table has other columns: {known}", slug="schema", where=destination)
    else:
        table.create(connection)
    plain = frame.astype(object).where(pd.notna(frame), None)
    rows = [dict(zip(map(str, frame.columns), values, strict=True)) for values in plain.itertuples(index=False, name=None)]
    if rows:
        connection.execute(table.insert(), rows)
    connection.execute(written.insert(), {"key": key, "destination": destination, "rows": len(rows)})


def _sql_type(column: Any) -> Any:
    kind = column.dtype.kind
    return {"i": sa.BigInteger(), "u": sa.BigInteger(), "f": sa.Float(53), "b": sa.Boolean(), "M": sa.DateTime()}.get(kind, sa.Text())


class StateTable:
    """A small table of a program's own state: rows are added, never changed, and come back in the order they were added.

    address   a path of an SQLite file, or SQLAlchemy's URL (`sqlite:///state.db`, `postgresql+psycopg://…`)
    columns   {name: str | int | float | bool}; beside them stands `id`, growing from 1
    unique    columns that together name a row: adding one a second time changes nothing

    Several processes may add at once (SQLite waits up to `timeout` seconds for its writer, in WAL mode). Errors: RecipeError for an
    address that is none, DataError for a table of other columns or a file that is no database, Unavailable (6) when it stays
    locked or does not answer, Exhausted (7) for a full disk or a folder that may not be written.
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        name: str,
        columns: Mapping[str, type],
        *,
        unique: Sequence[str] = (),
        project: str | os.PathLike[str] | None = None,
        timeout: float = 5.0,
    ) -> None:
        text = os.fspath(address)
        try:
            url = sa.make_url(text if "://" in text else f"sqlite:///{text}")
        except sqlalchemy.exc.ArgumentError:  # its message shows the URL, password and all
            raise RecipeError("is not an address of a database", hint="write it as sqlite:///state.db", where="address") from None
        types: dict[type, Any] = {str: sa.Text(), int: sa.BigInteger(), float: sa.Float(53), bool: sa.Boolean()}
        number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts INTEGER keys only
        self._table = sa.Table(
            name,
            sa.MetaData(),
            sa.Column("id", number, primary_key=True, autoincrement=True),
            *(sa.Column(column, types[kind], nullable=True) for column, kind in columns.items()),
            *([sa.UniqueConstraint(*unique)] if unique else []),
        )
        self._session: Any = None
        if url.get_backend_name() == "sqlite":
            self._session = _Sqlite(url, Path(project) if project is not None else Path(), timeout, time.monotonic)
            self.label = self._session.label
            path = self._session.path
            with _explained(self):
                path.parent.mkdir(parents=True, exist_ok=True)

            def connect() -> sqlite3.Connection:
                connection = sqlite3.connect(path, timeout=timeout, check_same_thread=False)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power cut the last rows, never the table
                return connection

            self._engine = sa.create_engine("sqlite+pysqlite://", creator=connect, poolclass=QueuePool, hide_parameters=True)
        else:
            self.label = f"{url.get_backend_name()} database {url.database or ''}".strip()
            self._engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
        with _explained(self), self._engine.begin() as connection:
            connection.execute(sa.schema.CreateTable(self._table, if_not_exists=True))
            there = {column["name"] for column in sa.inspect(connection).get_columns(name)}
        if there != set(self._table.columns.keys()):
            raise DataError(f"the table {name} has other columns: {', '.join(sorted(there))}", slug="schema", where=self.label)

    def add(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is new; False where one of its `unique` columns stood there already."""
        try:
            with _explained(self), self._engine.begin() as connection:
                connection.execute(self._table.insert(), dict(row))
        except sqlalchemy.exc.IntegrityError:
            return False
        return True

    def rows(self, *, last: int | None = None, after: int = 0) -> list[dict[str, Any]]:
        """Rows whose `id` is above `after`, the newest `last` of them, oldest first."""
        query = sa.select(self._table).where(self._table.c.id > after).order_by(self._table.c.id.desc())
        if last is not None:
            query = query.limit(last)
        with _explained(self), self._engine.connect() as connection:
            found = connection.execute(query).mappings().all()
        return [dict(row) for row in reversed(found)]

    def count(self, *, after: int = 0) -> int:
        with _explained(self), self._engine.connect() as connection:
            found = connection.execute(sa.select(sa.func.count()).select_from(self._table).where(self._table.c.id > after))
            return int(found.scalar_one())

    def close(self) -> None:
        """Give back the connections; the next call opens new ones."""
        self._engine.dispose()

    def __repr__(self) -> str:
        return f"<StateTable {self._table.name} in {self.label}>"


@contextlib.contextmanager
def _explained(table: StateTable) -> Iterator[None]:
    """Errors as ours, but for a row that is there already."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError:
        raise
    except OSError as error:
        raise Exhausted("may not be written", hint="check the folder's permissions", slug="read-only", where=table.label) from error
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
        if table._session is not None:
            code = str(getattr(cause, "sqlite_errorname", "") or "")
            if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
                hint = "check the folder's permissions"
                raise Exhausted("may not be written", hint=hint, slug="read-only", where=table.label) from None
            raise table._session.explain(cause) from None
        raise Unavailable(f"does not answer ({type(cause).__name__})", slug="unavailable", where=table.label) from None
