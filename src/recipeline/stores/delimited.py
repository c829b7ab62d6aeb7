"""Delimited text: the rows of a CSV file as Arrow batches, in constant memory.

The type of a column is the narrowest that holds for every value of the file, so it does not depend on how the file
is cut: one pass finds the types, a second gives the rows. Numbers are correctly rounded; dates and times in ISO form
become points in time. The words that mean "no value" are those of `pandas.read_csv`.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from recipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BLOCK = 8 << 20  # bytes parsed at once; a row may not be longer

_NULLS = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
          "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]  # fmt: skip


class Delimited:
    """One file of delimited text.

    open   gives a new stream of its bytes from the start; may raise DataError and the like
    label  how messages call the file

    Every method raises DataError, with the line, where the text is no table: rows of unequal length, NUL, other
    encodings than UTF-8, a quoted value that never ends.
    """

    def __init__(self, open: Callable[[], IO[bytes]], *, label: str, delimiter: str = ",", packed: bool = False) -> None:  # noqa: A002
        self._open, self.label, self.delimiter, self.packed = open, label, delimiter, packed
        self._doubtful = False
        self.names, self._head, self._any = self._begin()

    def types(self, names: Sequence[str]) -> pa.Schema:
        """The narrowest type of each of the columns that holds for all of its values."""
        import pyarrow as pa

        wanted = list(names)
        found = dict.fromkeys(wanted, pa.null())
        with self._explained():
            if self._any:
                try:
                    with self._reader(wanted, None) as reader:
                        found = {field.name: field.type for field in reader.schema}
                        for _ in reader:
                            pass
                except pa.ArrowInvalid as error:
                    if "conversion error" not in str(error):
                        raise
                    found = self._types_by_block(wanted)  # the first block did not tell the whole truth
            foreign = any(pa.types.is_binary(kind) for kind in found.values())  # the parser takes what is not UTF-8 for bytes
            if (self._doubtful or foreign) and (mistake := self._mistake()) is not None:
                raise mistake
        return pa.schema([(name, _settled(found[name])) for name in wanted])

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, as `types` found them, block by block."""
        if not self._any:
            return
        with self._explained(), self._reader(schema.names, {field.name: field.type for field in schema}) as reader:
            yield from reader

    # --- inside ---

    @contextlib.contextmanager
    def _bytes(self) -> Iterator[Any]:
        with contextlib.closing(self._open()) as stream:
            if not self.packed:
                yield stream
                return
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked

    def _begin(self) -> tuple[list[str], int, bool]:
        """The names in the header, how many rows (empty ones too) it takes, and whether any row follows."""
        with self._explained(), self._bytes() as stream:
            rows = csv.reader(self._lines(stream), delimiter=self.delimiter)
            for head, row in enumerate(rows, 1):
                if row:
                    self._refuse_other_separator(row)
                    names = [name or f"Unnamed: {position}" for position, name in enumerate(row)]
                    return names, head, any(rows)  # stops at the first row that is not empty
        raise DataError("is empty", hint="a CSV file begins with the names of its columns", slug="empty-file", where=self.label)

    def _refuse_other_separator(self, header: list[str]) -> None:
        """A header of one name with separators in it: the file is no table of one column."""
        other = next((name for mark, name in _SEPARATORS.items() if mark != self.delimiter and mark in header[0]), None)
        if len(header) == 1 and other is not None:
            shown = header[0] if len(header[0]) <= 40 else f"{header[0][:40]}…"
            raise DataError(
                f"has values separated by {other}, not by {_SEPARATORS[self.delimiter]}: its header is {shown!r}",
                hint="name it .tsv" if other == "tabs" else "save it with commas between the values, and points in decimals",
                slug="separator",
                where=self.label,
            )

    def _lines(self, stream: Any) -> Iterator[str]:
        for number, line in enumerate(stream, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError("is UTF-16", hint="save it as UTF-8", slug="bad-csv", where=f"{self.label}:1")
            if b"\0" in line:
                raise DataError("holds a NUL byte", slug="bad-csv", where=f"{self.label}:{number}")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError("is not UTF-8", hint="save it as UTF-8", slug="bad-csv", where=f"{self.label}:{number}") from None

    @contextlib.contextmanager
    def _reader(self, names: Sequence[str], types: Mapping[str, Any] | None) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.csv

        with self._bytes() as stream:
            scanned = _Scanned(stream)
            reader = pyarrow.csv.open_csv(
                pa.PythonFile(scanned, mode="r"),
                read_options=pyarrow.csv.ReadOptions(
                    block_size=BLOCK, use_threads=False, column_names=self.names, skip_rows_after_names=self._head
                ),
                parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=_conversion(names, types),
            )
            with reader:
                yield reader
            # After an odd number of quotes one may not be closed, and the parser has taken the rest of a torn file as text.
            self._doubtful = scanned.quotes % 2 == 1

    def _types_by_block(self, names: Sequence[str]) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.csv

        found = dict.fromkeys(names, pa.null())
        with self._reader(names, dict.fromkeys(names, pa.string())) as reader:
            for block in reader:
                # The texts go through the same parser again, so that they are judged by the same rules.
                sink = pa.BufferOutputStream()
                pyarrow.csv.write_csv(block.rename_columns([str(index) for index in range(len(names))]), sink)
                judged = pyarrow.csv.read_csv(
                    pa.BufferReader(sink.getvalue()),
                    read_options=pyarrow.csv.ReadOptions(use_threads=False),
                    parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                    convert_options=_conversion([str(index) for index in range(len(names))], None),
                )
                found = {name: _wider(found[name], kind) for name, kind in zip(names, judged.schema.types, strict=True)}
        return found

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What the parsers raise, as a DataError with the line where one is to blame."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, csv.Error, OSError, EOFError, _NulByte) as error:
            if (mistake := self._mistake()) is not None:
                raise mistake from None
            column = re.search(r"In CSV column #(\d+): CSV conversion error to (\w+)", str(error))
            what = f"column {int(column[1]) + 1} holds a value that is not {column[2]}" if column else "is not a readable CSV file"
            raise DataError(what, slug="bad-csv", where=self.label) from None

    def _mistake(self) -> DataError | None:
        """The first line that is no row of the table, or None; found by reading the file again, slowly."""
        line, width = 0, 0
        try:
            with self._bytes() as stream:
                rows = csv.reader(self._lines(stream), delimiter=self.delimiter, strict=True)
                for row in rows:
                    line = rows.line_num
                    width = width or len(row)
                    if row and len(row) != width:
                        what = f"has {len(row)} values where the header has {width}"
                        return DataError(what, slug="bad-csv", where=f"{self.label}:{line}")
        except DataError as known:
            return known
        except csv.Error:
            what = "begins a quoted value that does not end as it should"
            return DataError(what, hint='write a quote inside a value as ""', slug="bad-csv", where=f"{self.label}:{line + 1}")
        except (OSError, EOFError):
            what = "is not a whole gzip file" if self.packed else "could not be read to its end"
            return DataError(what, slug="damaged-file", where=self.label)
        return None


class _Scanned:
    """A stream that refuses NUL on its way to the parser, which would take it as text, and counts quotes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.closed = False
        self.quotes = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        if b"\0" in data:
            raise _NulByte
        self.quotes += data.count(b'"')
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:  # who opened the stream closes it
        self.closed = True


class _NulByte(ValueError):
    pass


def _conversion(names: Sequence[str], types: Mapping[str, Any] | None) -> Any:
    import pyarrow.csv

    return pyarrow.csv.ConvertOptions(
        include_columns=list(names),
        column_types=types,
        null_values=_NULLS,
        strings_can_be_null=True,
        # 0 and 1 are numbers: a column of them and of "true" is text, as pandas has it.
        true_values=["true", "True", "TRUE"],
        false_values=["false", "False", "FALSE"],
    )


def _wider(one: Any, other: Any) -> Any:
    """The narrowest type that holds what both hold: null < int64 < double, date < timestamp, else text."""
    import pyarrow as pa

    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    pair = {str(one), str(other)}
    if pair == {"int64", "double"}:
        return pa.float64()
    if pair <= {"date32[day]", "timestamp[s]", "timestamp[ns]"}:
        return pa.timestamp("ns" if "timestamp[ns]" in pair else "s")
    return pa.string()


def _settled(kind: Any) -> Any:
    """A column without values is of numbers that are missing, a time of day is text, a day is a point in time."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        return pa.float64()
    if pa.types.is_time(kind):
        return pa.string()
    return pa.timestamp("s") if pa.types.is_date(kind) else kind
