"""What a `source_uri` means, and what it may not mean."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recipeline.errors import DataError, RecipeError, Refused
from recipeline.stores import files
from recipeline.stores.places import FileSource, Places, QuerySource
from recipeline.stores.sql import SqlAdapter


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A project with a recipe folder, a file in each, and a database."""
    project, folder = tmp_path / "project", tmp_path / "project" / "recipes"
    folder.mkdir(parents=True)
    files.write_frame(folder / "near.csv", pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]}))
    files.write_frame(project / "data" / "far.parquet", pd.DataFrame({"a": [4, 5]}))
    files.write_frame(project / "both.csv", pd.DataFrame({"a": [0]}))
    files.write_frame(folder / "both.csv", pd.DataFrame({"a": [1]}))
    with sqlite3.connect(project / "shop.db") as connection:
        connection.execute("CREATE TABLE customers (id INTEGER, age REAL)")
        connection.executemany("INSERT INTO customers VALUES (?, ?)", [(1, 20.5), (2, None), (3, 40.0)])
    connection.close()
    return Places(
        project=project,
        folder=folder,
        sources={
            "file": {"uri": "data/far.parquet"},
            "query": {"adapter": "sql", "query": "SELECT id FROM customers"},
            "table": {"table": "customers"},
            "query_file": {"query": "old.sql"},
            "both": {"uri": "x", "query": "SELECT 1"},
            "loop": {"uri": "source://loop"},
            "typo": {"uri": "x.csv", "adaptor": "sql"},
            "custom": {"adapter": "mine", "uri": "anything://x"},
        },
        adapters={
            "sql": {"class_name": "SqlAdapter", "config": {"connection_uri": "sqlite:///shop.db"}},
            "storage": {"class_name": "StorageAdapter", "config": {"roots": ["memory://here"]}},
            "strange": {"class_name": "SqlAdaptor", "config": {}},
        },
    )


def test_relative_paths_start_from_the_recipe_then_from_the_project(places: Places) -> None:
    assert places.resolve("near.csv").read()["a"].tolist() == [1, 2, 3]
    assert places.resolve("data/far.parquet").read()["a"].tolist() == [4, 5]
    assert places.resolve("file://data/far.parquet").read()["a"].tolist() == [4, 5]
    assert places.resolve("both.csv").read()["a"].tolist() == [1]
    absolute = places.resolve(f"file://{places.project / 'data' / 'far.parquet'}")
    assert isinstance(absolute, FileSource)
    assert absolute.read()["a"].tolist() == [4, 5]


def test_a_missing_file_shows_both_places(places: Places) -> None:
    with pytest.raises(DataError) as caught:
        places.resolve("data/no.csv")
    assert caught.value.code == 5
    assert "tried recipes/data/no.csv and data/no.csv" in str(caught.value)
    assert str(places.project) not in str(caught.value)


def test_a_file_source_streams_counts_and_has_a_fingerprint(places: Places) -> None:
    source = places.resolve("near.csv")
    assert [batch.num_rows for batch in source.batches(2)] == [2, 1]
    assert next(source.batches(9, ["b"])).schema.names == ["b"]
    assert source.count() is None
    assert places.resolve("data/far.parquet").count() == 2
    assert source.fingerprint() == files.sha256(places.folder / "near.csv")
    assert places.resolve("file://near.csv").read(["b"]).columns.tolist() == ["b"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id, age FROM customers",
        "  select id, age from customers;",
        "-- why\nSELECT id, age FROM customers",
        "/* a */ SELECT id, age FROM customers",
        "WITH c AS (SELECT * FROM customers) SELECT id, age FROM c",
    ],
)
def test_an_inline_select_goes_to_the_sql_adapter(text: str, places: Places) -> None:
    source = places.resolve(text)
    assert isinstance(source, QuerySource)
    frame = source.read()
    assert frame["id"].tolist() == [1, 2, 3]
    assert [batch.num_rows for batch in source.batches(2, ["age"])] == [2, 1]
    assert source.fingerprint() is None
    assert source.count() is None
    with pytest.raises(DataError, match="did you mean age"):
        source.read(["agee"])


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM customers",
        "drop\ttable customers",
        "ATTACH 'x.db' AS x",
        "PRAGMA query_only=off",
        "INSERT INTO customers VALUES (1, 2)",
        "VALUES (1)",
        "UPDATE customers SET age = 1",
    ],
)
def test_an_inline_statement_that_does_not_select_is_refused_not_missing(text: str, places: Places) -> None:
    """Taken for a query, so that the gate says what is wrong with it."""
    with pytest.raises(Refused) as caught:
        places.resolve(text).read()
    assert caught.value.code == 4


def test_a_query_file_is_read_and_bound_to_the_parameters(places: Places) -> None:
    (places.folder / "old.sql").write_text("\ufeffSELECT id FROM customers WHERE age > :age")
    assert places.resolve("old.sql", {"age": 30}).read()["id"].tolist() == [3]
    assert places.resolve("source://query_file", {"age": 10}).read()["id"].tolist() == [1, 3]
    with pytest.raises(RecipeError, match="age"):
        places.resolve("old.sql").read()
    (places.folder / "bad.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(DataError, match="UTF-8"):
        places.resolve("bad.sql")
    with pytest.raises(DataError, match="tried"):
        places.resolve("missing.sql")


def test_a_template_is_compiled_with_the_parameters(places: Places) -> None:
    (places.folder / "spine.sql.j2").write_text("SELECT id FROM customers WHERE age > {{ age }}")
    source = places.resolve("spine.sql.j2", {"age": 30})
    assert source.read()["id"].tolist() == [3]
    assert isinstance(source, QuerySource)
    assert source.documents == {"spine.sql.j2": "SELECT id FROM customers WHERE age > {{ age }}"}
    with pytest.raises(RecipeError, match=r"recipes/spine\.sql\.j2:1: the template needs the parameter age") as caught:
        places.resolve("spine.sql.j2")
    assert caught.value.code == 3


def test_names_of_sources_are_looked_up_in_the_configuration(places: Places) -> None:
    assert places.resolve("source://file").read()["a"].tolist() == [4, 5]
    assert places.resolve("source://query").read()["id"].tolist() == [1, 2, 3]
    assert places.resolve("source://table").read().columns.tolist() == ["id", "age"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("customer", "no source named customer"),
        ("tabel", "did you mean table"),
        ("both", "exactly one"),
        ("loop", "another source"),
        ("typo", "adaptor"),
    ],
)
def test_a_source_that_means_nothing_is_a_mistake_in_the_configuration(name: str, words: str, places: Places) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        places.resolve(f"source://{name}")
    assert caught.value.code == 3


class Mine:
    """An adapter of somebody's own."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read(self, query: str, params: Any = None) -> pd.DataFrame:
        self.asked.append(query)
        return pd.DataFrame({"a": [7]})

    def batches(self, query: str, rows: int, params: Any = None) -> Any:
        raise NotImplementedError

    def write(self, frame: Any, destination: str, *, key: str) -> None:
        raise NotImplementedError


def test_a_foreign_adapter_gets_its_uri_as_it_stands(places: Places) -> None:
    """Given as an object or as what builds one; built when it is needed."""
    mine, built = Mine(), []

    def build() -> Mine:
        built.append(1)
        return mine

    for given in (mine, build):
        own = Places(places.project, places.folder, places.sources, {"mine": given})
        assert own.resolve("source://custom").read()["a"].tolist() == [7]
    assert mine.asked == ["anything://x"] * 2
    assert built == [1]


def test_adapters_are_known_or_a_mistake(places: Places) -> None:
    assert isinstance(places.adapter("sql"), SqlAdapter)
    assert isinstance(places.adapter("storage"), files.StorageAdapter)
    with pytest.raises(RecipeError, match="did you mean SqlAdapter"):
        places.adapter("strange")
    with pytest.raises(RecipeError, match=r"data_adapters\.adapters\.sql"):
        Places(places.project, places.folder).resolve("SELECT 1")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x.csv",
        "memory://elsewhere/x.csv",
        "http://localhost/x.csv",
        "zip://x::memory://here/x.zip",
        "x.csv::y",
        "memory://here/../x.csv",
    ],
)
def test_foreign_addresses_outside_the_roots_are_refused(uri: str, places: Places) -> None:
    with pytest.raises(Refused) as caught:
        places.resolve(uri)
    assert caught.value.code == 4


def test_addresses_below_a_root_are_read(places: Places) -> None:
    import fsspec

    with fsspec.filesystem("memory").open("memory://here/x.csv", "wb") as out:
        out.write(b"a\n8\n")
    source = places.resolve("memory://here/x.csv")
    assert source.read()["a"].tolist() == [8]
    assert source.fingerprint() is not None
    own = Places(places.project, places.folder, roots=("memory://here",))
    assert own.resolve("memory://here/x.csv").read()["a"].tolist() == [8]
    fsspec.filesystem("memory").rm("memory://here", recursive=True)


def test_a_file_whose_name_begins_like_a_statement_is_a_file(places: Places) -> None:
    files.write_frame(places.folder / "copy (2) from shop.csv", pd.DataFrame({"a": [1]}))
    assert places.resolve("copy (2) from shop.csv").read()["a"].tolist() == [1]
    with pytest.raises(Refused):
        places.resolve("copy (3) from shop.csv").read()


def test_text_of_several_lines_is_not_a_path(places: Places) -> None:
    with pytest.raises(DataError, match="neither a path nor a query"):
        places.resolve("one\ntwo")
