"""Files: frames read and written whole or in batches, from local paths and through fsspec.

CSV (`.csv`, `.tsv`, also with `.gz`) and Parquet (`.parquet`, `.pq`). `read_frame` and `batches` agree on the type of
every column, however the file is cut. Writing is that of `atomic`, whose names stand here too: this module is the
door to files for the rest of the house.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from recipeline.errors import DataError, Exhausted, MissingLibrary, RecipelineError, Refused, Unavailable, UsageError, did_you_mean
from recipeline.stores.atomic import (
    Lock,
    atomic_folder,
    atomic_path,
    claim_folder,
    discard,
    owner_lives,
    remove,
    remove_dead,
    shown,
    sync_tree,
    to_json,
    without_credentials,
    write_bytes,
    write_json,
    write_text,
)
from recipeline.stores.delimited import Delimited

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import pandas as pd
    import pyarrow as pa

    Frame: TypeAlias = pd.DataFrame

__all__ = [
    "FrameSink", "FrameWriter", "Lock", "StorageAdapter", "admit", "atomic_folder", "atomic_path", "batches",
    "claim_folder", "count_rows", "discard", "footer", "format_of", "local_path", "open_source", "owner_lives", "read_bytes",
    "read_frame", "read_json", "rechunk", "remove", "remove_dead", "sha256", "shown", "sync_tree", "to_frame", "to_json",
    "without_credentials", "write_bytes", "write_frame", "write_json", "write_text",
]  # fmt: skip

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")


def format_of(name: str, label: str) -> str:
    """`parquet`, or the suffix of delimited text without its dot; DataError for any other name."""
    plain = name.partition("?")[0].lower() if "://" in name else name.lower()
    for suffix in SUFFIXES:
        if plain.endswith(suffix):
            return "parquet" if suffix in (".parquet", ".pq") else suffix[1:]
    raise DataError("is of no known format", hint=f"use one of {', '.join(SUFFIXES)}", slug="unknown-format", where=label)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    with open_source(path) as stream:
        return stream.read()


def read_json(path: str | os.PathLike[str]) -> Any:
    """The document; DataError when it is missing, or is not JSON."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise DataError("is not valid JSON", slug="damaged-file", where=shown(path)) from error


def sha256(path: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None) -> str:
    """Hexadecimal digest of the bytes of a file, read in pieces."""
    with open_source(path, options=options) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


# --- where things may be ---------------------------------------------------------------------------


def local_path(uri: str) -> Path | None:
    """The path that a plain name or a `file://` URI means; None for another scheme.

    `file://data/x.csv` is relative, `file:///data/x.csv` absolute. fsspec chains (`zip://x::s3://y`) are Refused.
    """
    if "::" in uri:
        raise Refused("chained addresses are not allowed", hint="name one file", slug="foreign-address", where=without_credentials(uri))
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return Path(uri)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return Path(uri)
    return Path(rest) if scheme.lower() in ("file", "local") else None


def admit(uri: str, roots: Sequence[str]) -> str:
    """`uri`, when it lies below one of the configured `roots` (`s3://bucket/folder`); Refused (4) otherwise."""
    scheme, _, rest = uri.partition("://")
    steps = rest.split("?")[0].split("/")
    inside = False
    if "::" not in uri and ".." not in steps and "%" not in rest and "\\" not in rest:
        for root in roots:
            top_scheme, _, top = root.partition("://")
            top_steps = top.rstrip("/").split("/") if top.strip("/") else []
            inside = inside or (scheme.lower() == top_scheme.lower() and steps[: len(top_steps)] == top_steps)
    if not inside:
        raise Refused(
            f"{scheme}:// addresses are only read below the configured roots",
            hint="add the folder to data_adapters.adapters.storage.config.roots",
            slug="foreign-address",
            where=without_credentials(uri),
        )
    return uri


def open_source(source: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None, name: str = "") -> IO[bytes]:
    """A seekable stream of the bytes of a local file or, through fsspec, of an admitted URI."""
    label = name or shown(source)
    path = local_path(os.fspath(source)) if isinstance(source, str) else Path(source)
    if path is not None:
        try:
            return path.open("rb")
        except OSError as error:
            raise _cannot_read(error, label) from None
    import fsspec

    try:
        filesystem, place = fsspec.core.url_to_fs(str(source), **dict(options or {}))
        stream: IO[bytes] = filesystem.open(place, "rb")
        return stream
    except ImportError as error:
        scheme = str(source).partition("://")[0]
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "az": "azure", "abfss": "azure"}.get(scheme)
        if extra is None:
            raise DataError(f"nothing here reads {scheme}:// addresses", slug="unknown-scheme", where=label) from None
        raise MissingLibrary(f"the library for {scheme}://", extra, getattr(error, "name", None) or "") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise _cannot_read(error, label) from None
    except (OSError, TimeoutError) as error:
        # The text of these errors may hold addresses with keys; the class says enough.
        raise Unavailable(f"could not be opened ({type(error).__name__})", slug="unavailable", where=label) from None
    except ValueError:
        scheme = str(source).partition("://")[0]
        raise DataError(f"nothing here reads {scheme}:// addresses", slug="unknown-scheme", where=label) from None


# --- frames ----------------------------------------------------------------------------------------


def read_frame(
    source: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    name: str = "",
    options: Mapping[str, Any] | None = None,
) -> Frame:
    """The whole table as a frame (n, len(columns)); the columns in the order asked, or all in the order of the file.

    DataError (5) when the file is missing, forbidden, empty, torn, not rectangular (with its line), when it holds
    NUL, has two columns of one name, or lacks a column.
    """
    import pyarrow as pa

    label = name or shown(source)
    kind = format_of(os.fspath(source), label)
    if kind == "parquet":
        with _parquet(source, label, options) as file, _damage(label):
            table = file.read(columns=_present(columns, _parquet_names(file), label), use_threads=True)
    else:
        text, schema = _delimited(source, kind, columns, label, options)
        table = pa.Table.from_batches(text.batches(schema), schema)
    return to_frame(table if columns is None else table.select(list(columns)))


def batches(
    source: str | os.PathLike[str],
    rows: int,
    columns: Sequence[str] | None = None,
    *,
    name: str = "",
    options: Mapping[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The table in record batches of exactly `rows` rows (the last may be shorter), in memory of a few of them.

    Borders are counted from row 0, whatever the row groups or blocks of the file; all batches have one schema.
    An empty table gives one batch of zero rows, so that its columns are known. Errors as `read_frame`.
    """
    if rows < 1:
        raise UsageError(f"a batch needs at least one row, got {rows}", slug="bad-value", where="execution.batch.rows")
    label = name or shown(source)
    kind = format_of(os.fspath(source), label)
    if kind == "parquet":
        with _parquet(source, label, options) as file:
            wanted = _present(columns, _parquet_names(file), label)
            schema = file.schema_arrow if wanted is None else _subset(file.schema_arrow, wanted)
            yield from rechunk(_parquet_pieces(file, rows, wanted, label), rows, schema)
    else:
        text, schema = _delimited(source, kind, columns, label, options)
        yield from rechunk(text.batches(schema), rows, schema)


def footer(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `FrameSink.metadata` left in a local Parquet file."""
    with _parquet(path, shown(path), None) as file:
        found = file.metadata.metadata or {}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()}


def count_rows(source: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None, name: str = "") -> int | None:
    """Rows of a Parquet file, from its footer; None where counting means reading."""
    label = name or shown(source)
    if format_of(os.fspath(source), label) != "parquet":
        return None
    with _parquet(source, label, options) as file:
        return int(file.metadata.num_rows)


def rechunk(pieces: Iterator[pa.RecordBatch], rows: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `rows`; one empty batch of `schema` when there are none."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    held, given = 0, False
    for piece in pieces:
        while piece.num_rows:
            taken = piece.slice(0, rows - held)
            piece = piece.slice(taken.num_rows)
            waiting.append(taken)
            held += taken.num_rows
            del taken
            if held == rows:
                whole = _join(waiting)
                waiting, held, given = [], 0, True
                yield whole
                del whole
    if waiting:
        yield _join(waiting)
    elif not given:
        yield pa.RecordBatch.from_pylist([], schema=schema)


def to_frame(data: pa.Table | pa.RecordBatch) -> Frame:
    """Arrow to pandas, as the rest of the house expects it: the frame owns its memory and may be changed.

    Whole numbers with nulls and columns of nulls only are float64 with NaN, dates and times are datetime64,
    decimals float64, dictionaries Categorical, text object (`str` from pandas 3 on). The index is 0 … n-1.
    """
    import pyarrow as pa

    table = data if isinstance(data, pa.Table) else pa.Table.from_batches([data])
    for position, field in enumerate(table.schema):
        if pa.types.is_null(field.type) or pa.types.is_decimal(field.type):
            table = table.set_column(position, pa.field(field.name, pa.float64()), table.column(position).cast(pa.float64()))
    frame: Frame = table.to_pandas(ignore_metadata=True, date_as_object=False, use_threads=False)
    return frame


class FrameSink:
    """Rows into the file at `path`, batch after batch; for a path that `atomic_path` or `claim_folder` gave.

    The first batch decides the columns and their types, or `schema` does; later ones are brought to them or are a
    DataError. `metadata` (text by text, may change until the end) goes into the footer of a Parquet file.
    """

    def __init__(self, path: Path, *, schema: pa.Schema | None = None, like: str = "") -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self.metadata: dict[str, str] = {}
        self._kind = format_of(like or path.name, shown(path))
        self._writer: Any = None
        self._stream: Any = None

    def write(self, rows: Frame | pa.RecordBatch) -> None:
        batch = self._batch(rows)
        if self._writer is None:
            self._open(batch.schema)
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def close(self) -> None:
        """Finish the file; without a row written it holds the columns of `schema`. Safe to call twice."""
        if self._stream is not None and self._stream.closed:
            return
        if self._writer is None:
            if self.schema is None:
                raise DataError("there is nothing to write, not even columns", slug="empty", where=shown(self.path))
            self._open(self.schema)
        if self.metadata and self._kind == "parquet":
            self._writer.add_key_value_metadata(self.metadata)
        self._writer.close()
        self._stream.close()

    def _open(self, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        self.schema = schema
        stream: Any = pa.OSFile(str(self.path), "wb")
        self._stream = stream
        if self._kind == "parquet":
            # A dictionary of floats, which rarely repeat, is only built to be thrown away.
            texts = [field.name for field in schema if not pa.types.is_floating(field.type)]
            self._writer = pyarrow.parquet.ParquetWriter(
                stream, schema, compression="zstd", use_dictionary=texts, write_page_checksum=True, store_schema=True
            )
            return
        if self._kind.endswith(".gz"):
            stream = self._stream = pa.CompressedOutputStream(stream, "gzip")
        delimiter = "\t" if "tsv" in self._kind else ","
        plain = not any(mark in name for name in schema.names for mark in (delimiter, '"', "\n", "\r"))
        options = pyarrow.csv.WriteOptions(delimiter=delimiter, quoting_header="none" if plain else "needed")
        self._writer = pyarrow.csv.CSVWriter(stream, schema, write_options=options)

    def _batch(self, rows: Frame | pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa

        try:
            if isinstance(rows, pa.RecordBatch):
                return rows if self.schema is None else rows.cast(self.schema)
            # By way of a table: pandas 3 keeps texts that were put together in several chunks.
            table = pa.Table.from_pandas(rows, schema=self.schema, preserve_index=False).combine_chunks()
            batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
            if len(batches) > 1:  # what does not fit into one array
                raise DataError("more than 2 GiB of text at once", hint="write fewer rows at a time", slug="too-large")
            batch = batches[0]
            return batch.replace_schema_metadata(None) if self.schema is None else batch
        except (pa.ArrowException, KeyError) as error:
            names = re.search(r"Conversion failed for column (\S+)", str(error))
            where = names.group(1) if names else ", ".join(map(str, rows.columns[:8])) if hasattr(rows, "columns") else ""
            raise DataError("does not fit the type of the rows before it", slug="mixed-types", where=f"column {where}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Let go of a file that will be thrown away."""
        for part in (self._writer, self._stream):
            # What they would still say (the disk is full, once more) helps nobody.
            with contextlib.suppress(OSError, ValueError):
                if part is not None:
                    part.close()


@contextlib.contextmanager
def FrameWriter(  # noqa: N802 - reads as the object that it gives
    target: str | os.PathLike[str], *, schema: pa.Schema | None = None, exclusive: bool = False
) -> Iterator[FrameSink]:
    """`with FrameWriter(path) as out: out.write(frame)`: CSV or Parquet by suffix, the whole file or nothing."""
    with atomic_path(target, exclusive=exclusive) as temporary, FrameSink(temporary, schema=schema, like=os.fspath(target)) as sink:
        yield sink


def write_frame(path: str | os.PathLike[str], frame: Frame, *, metadata: Mapping[str, str] | None = None) -> None:
    """The frame without its index as CSV or Parquet, by suffix."""
    with FrameWriter(path) as sink:
        sink.metadata.update(metadata or {})
        sink.write(frame)


class StorageAdapter:
    """Files as an adapter: a query is a path or URI.

    roots    prefixes (`s3://bucket/folder`) below which other schemes than `file://` are read; none means none
    project  folder that relative paths start from; the working folder if None
    Further arguments go to fsspec as they are (`endpoint_url`, `anon`, …).
    """

    def __init__(self, *, roots: Sequence[str] = (), project: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.roots, self.options = tuple(roots), options
        self.project = Path(project) if project is not None else None

    def read(self, query: str, params: Mapping[str, Any] | None = None) -> Frame:
        _no_params(params, query)
        return read_frame(self._place(query), name=without_credentials(query), options=self.options)

    def batches(self, query: str, rows: int, params: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatch]:
        _no_params(params, query)
        return batches(self._place(query), rows, name=without_credentials(query), options=self.options)

    def write(self, frame: Frame, destination: str, *, key: str) -> None:
        """One file, whole; `key` names what wrote it and stands in the footer of a Parquet file."""
        path = local_path(destination)
        if path is None:
            raise UsageError("rows are written to local files only", where=without_credentials(destination))
        write_frame(path if self.project is None else self.project / path, frame, metadata={"recipeline.key": key})

    def _place(self, uri: str) -> Path | str:
        path = local_path(uri)
        if path is None:
            return admit(uri, self.roots)
        return path if self.project is None else self.project / path


# --- inside: reading -----------------------------------------------------------------------------------


def _no_params(params: Mapping[str, Any] | None, query: str) -> None:
    if params:
        raise UsageError("a file takes no parameters", where=without_credentials(query))


def _cannot_read(error: OSError, label: str) -> RecipelineError:
    if isinstance(error, FileNotFoundError):
        return DataError("there is no such file", slug="no-such-file", where=label)
    if isinstance(error, PermissionError):
        return DataError("may not be read", hint="check its permissions", slug="forbidden-file", where=label)
    if isinstance(error, IsADirectoryError):
        return DataError("is a folder, not a file", slug="no-such-file", where=label)
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return DataError(f"could not be read: {reason}", slug="unreadable-file", where=label)


def _present(columns: Sequence[str] | None, names: Sequence[str], label: str) -> list[str] | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"has more than one column named {', '.join(twice)}", slug="duplicate-column", where=label)
    if columns is None:
        return None if not any(map(_index_column, names)) else [name for name in names if not _index_column(name)]
    for column in columns:
        if column not in names:
            raise DataError(f"has no column {column}", hint=did_you_mean(column, names), slug="missing-column", where=label)
    return list(columns)


def _index_column(name: str) -> bool:
    """The row numbers that pandas keeps beside the data."""
    return re.fullmatch(r"__index_level_\d+__", name) is not None


def _subset(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([schema.field(name) for name in names])


def _join(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    import pyarrow as pa

    return pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)


def _delimited(
    source: str | os.PathLike[str], kind: str, columns: Sequence[str] | None, label: str, options: Mapping[str, Any] | None
) -> tuple[Delimited, pa.Schema]:
    text = Delimited(
        lambda: open_source(source, options=options, name=label),
        label=label,
        delimiter="\t" if "tsv" in kind else ",",
        packed=kind.endswith(".gz"),
    )
    wanted = _present(columns, text.names, label)
    return text, text.types(text.names if wanted is None else wanted)


@contextlib.contextmanager
def _parquet(source: str | os.PathLike[str], label: str, options: Mapping[str, Any] | None) -> Iterator[Any]:
    import pyarrow.parquet

    with open_source(source, options=options, name=label) as stream:
        local = local_path(os.fspath(source)) if isinstance(source, str) else Path(source)
        with _damage(label):
            # `pre_buffer` would hold whole row groups; with a buffered stream a column is read page by page.
            file = pyarrow.parquet.ParquetFile(
                stream if local is None else str(local), pre_buffer=False, buffer_size=1 << 18, page_checksum_verification=True
            )
        with file:
            yield file


def _parquet_names(file: Any) -> list[str]:
    return list(file.schema_arrow.names)


def _parquet_pieces(file: Any, rows: int, columns: list[str] | None, label: str) -> Iterator[pa.RecordBatch]:
    pieces = file.iter_batches(batch_size=rows, columns=columns, use_threads=False)
    while True:
        with _damage(label):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece if columns is None else piece.select(columns)


@contextlib.contextmanager
def _damage(label: str) -> Iterator[None]:
    """What a torn or altered Parquet file makes its reader raise, as a DataError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, ValueError, OverflowError) as error:
        # pyarrow reports decoding errors as OSError; a flipped bit in a length asks for more memory than there is.
        if isinstance(error, MemoryError) and _asked(error) < _memory():
            raise Exhausted("does not fit into memory", hint="read fewer columns, or a part", slug="out-of-memory", where=label) from error
        hint = "it may be torn; write it again"
        raise DataError("is not a readable Parquet file", hint=hint, slug="damaged-file", where=label) from error


def _asked(error: MemoryError) -> int:
    size = re.search(r"size (\d+)", str(error))
    return int(size[1]) if size else 0


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
