"""Loaders: where the rows come from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipeline.errors import Problem

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from recipeline.stores.places import Places, Source

log = logging.getLogger("recipeline")


class DefaultLoader:
    """Rows from a file, an address, a `.sql` file or `.sql.j2` template, an inline SELECT, or a `source://` that configuration explains.

    source_uri      see `recipeline.stores.places`; relative paths are tried from the recipe's folder, then the project's
    columns         read only these, in this order; None reads all
    places          given by the engine: folders, adapters and sources of this project
    context_params  given by the engine: values for the parameters of the query
    """

    def __init__(
        self, source_uri: str, *, columns: Sequence[str] | None = None, places: Places, context_params: Mapping[str, Any] | None = None
    ) -> None:
        self.source_uri = source_uri
        self.columns = None if columns is None else list(columns)
        self.places = places
        self.context_params = dict(context_params or {})
        self._source: Source | None = None
        self._documents: dict[str, str] = {}

    def source(self) -> Source:
        """What the address means here; nothing is read but the text of a query file, and that once."""
        if self._source is None:
            self._source = self.places.resolve(self.source_uri, self.context_params or None)
        return self._source

    def parameters(self, given: Mapping[str, Any] | None = None) -> dict[str, bool]:
        """What the query reads from `context_params`: name -> whether it cannot do without it; nothing is connected to.

        given  values to try: what would be wrong with the query made of them is raised as `load` would raise it
        """
        return self.places.parameters(self.source_uri, given)

    def load(self) -> pd.DataFrame:
        """All rows.

        Raises DataError for what cannot be found or read, Refused for addresses outside the configured roots and
        queries that are not one read-only SELECT, Unavailable where a service does not answer.
        """
        source = self.source()
        if self.context_params and not hasattr(source, "documents"):
            log.warning("the context parameters have no effect: %s is a file, and only queries take them", self.source_uri)
        self._documents = dict(getattr(source, "documents", {}))
        return source.read(self.columns)

    def documents(self) -> dict[str, str]:
        """The SQL of what was loaded, by file name, as written: it goes into the artifact."""
        return self._documents

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The same rows in the same order, `rows` at a time, in memory that does not grow with their number."""
        return self.source().batches(rows, self.columns)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """Mistakes that can be seen before anything is read."""
        problems = []
        uri = params.get("source_uri")
        if "source_uri" in params and (not isinstance(uri, str) or not uri.strip()):
            problems.append(Problem("bad-value", ("source_uri",), "a path, an address or a query expected", at="value"))
        columns = params.get("columns")
        if columns is not None and (not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns)):
            problems.append(Problem("bad-value", ("columns",), "a list of column names expected", "leave it out to read all", "value"))
        elif columns is not None and len(set(columns)) < len(columns):
            problems.append(Problem("bad-value", ("columns",), "a column is named twice", at="value"))
        return problems
