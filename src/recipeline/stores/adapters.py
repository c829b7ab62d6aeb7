"""The base of an adapter of your own: a way to outside data that this project does not know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class BaseAdapter(ABC):
    """Read and write frames somewhere else; named in configuration by its entry point or `recipeline.register`.

    settings  the adapter's own `config` from `data_adapters.adapters.<name>`, as a mapping
    kwargs    the same, as keyword arguments

        class CustomAdapter(BaseAdapter):
            def read(self, query, params=None, **kwargs):
                return fetch(self.settings["url"], query)
    """

    def __init__(self, settings: Mapping[str, Any], **kwargs: Any) -> None:
        self.settings = settings

    @abstractmethod
    def read(self, query: str, params: Mapping[str, Any] | None = None, **kwargs: Any) -> pd.DataFrame:
        """The rows that a query names."""

    def batches(self, query: str, rows: int, params: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatch]:
        """The same rows, `rows` at a time; reads them all at once unless a subclass knows better."""
        import pyarrow as pa

        table = pa.Table.from_pandas(self.read(query, params), preserve_index=False)
        yield from table.to_batches(max_chunksize=rows)

    def write(self, df: pd.DataFrame, destination: str, **kwargs: Any) -> None:
        """Write rows to a place. Raises NotImplementedError in an adapter that only reads."""
        raise NotImplementedError(f"{type(self).__name__} only reads")
