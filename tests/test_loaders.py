"""The default loader and the augmenter that brings nothing: real files and a real database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recipeline.components.augmenters import PassThrough
from recipeline.components.loaders import DefaultLoader
from recipeline.errors import DataError, RecipeError, Refused
from recipeline.stores.places import Places


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(17)
    return pd.DataFrame({"id": np.arange(50), "x": np.round(random.normal(size=50), 6), "city": random.choice(["Seoul", "Busan"], 50)})


@pytest.fixture
def places(tmp_path: Path, frame: pd.DataFrame) -> Places:
    """A project with a recipe's folder, files of each kind and an SQLite database."""
    project, recipes = tmp_path, tmp_path / "recipes"
    (recipes / "sql").mkdir(parents=True)
    (project / "data").mkdir()
    frame.to_csv(project / "data" / "rows.csv", index=False)
    frame.to_parquet(project / "data" / "rows.parquet")
    (recipes / "near.csv").write_text("id,x\n1,2.5\n")
    (recipes / "sql" / "rows.sql").write_text("SELECT id, x, city FROM people ORDER BY id")
    with sqlite3.connect(project / "people.sqlite") as database:
        frame.to_sql("people", database, index=False)
    adapters = {"sql": {"class_name": "SqlAdapter", "config": {"connection_uri": f"sqlite:///{project / 'people.sqlite'}"}}}
    return Places(project=project, folder=recipes, sources={"people": {"uri": "data/rows.parquet"}}, adapters=adapters)


SOURCES = [
    "data/rows.csv",
    "data/rows.parquet",
    "file://data/rows.csv",
    "source://people",
    "sql/rows.sql",
    "SELECT id, x, city FROM people ORDER BY id",
]


@pytest.mark.parametrize("uri", SOURCES)
def test_rows_come_from_files_and_queries_alike(uri: str, places: Places, frame: pd.DataFrame) -> None:
    """Files are tried from the recipe's folder, then from the project's; every road brings the same rows."""
    loaded = DefaultLoader(uri, places=places).load()
    pd.testing.assert_frame_equal(loaded, frame, check_dtype=False, check_exact=True)


@pytest.mark.parametrize("uri", SOURCES)
def test_batches_are_the_same_rows_in_the_same_order(uri: str, places: Places, frame: pd.DataFrame) -> None:
    """So many at a time, none twice, none lost."""
    batches = list(DefaultLoader(uri, places=places).batches(16))
    assert [batch.num_rows for batch in batches] == [16, 16, 16, 2]
    pd.testing.assert_frame_equal(pa.Table.from_batches(batches).to_pandas(), frame, check_dtype=False, check_exact=True)


@pytest.mark.parametrize("uri", SOURCES)
def test_columns_choose_what_is_read(uri: str, places: Places, frame: pd.DataFrame) -> None:
    """In the order given; a name that is not there is a data error with the nearest."""
    loader = DefaultLoader(uri, columns=["city", "id"], places=places)
    pd.testing.assert_frame_equal(loader.load(), frame[["city", "id"]], check_dtype=False)
    assert next(iter(loader.batches(10))).schema.names == ["city", "id"]
    with pytest.raises(DataError, match="did you mean city"):
        DefaultLoader(uri, columns=["ctiy"], places=places).load()


def test_the_recipes_own_folder_comes_first(places: Places) -> None:
    """And nothing is read before somebody asks for rows."""
    assert DefaultLoader("near.csv", places=places).load()["x"].tolist() == [2.5]
    DefaultLoader("data/not/there.csv", places=places)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("data/not/there.csv", DataError),
        ("source://nobody", RecipeError),
        ("s3://elsewhere/rows.csv", Refused),
        ("DELETE FROM people", Refused),
        ("SELECT id FROM nowhere", DataError),
    ],
)
def test_what_cannot_be_read_is_an_error_of_its_kind(uri: str, error: type[Exception], places: Places) -> None:
    """Both roads, whole and in batches, refuse it."""
    roads: list[Callable[[DefaultLoader], Any]] = [lambda loader: loader.load(), lambda loader: list(loader.batches(5))]
    for read in roads:
        with pytest.raises(error):
            read(DefaultLoader(uri, places=places))


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"source_uri": 3}, "source_uri"),
        ({"source_uri": " "}, "source_uri"),
        ({"source_uri": "a.csv", "columns": []}, "columns"),
        ({"source_uri": "a.csv", "columns": "id"}, "columns"),
        ({"source_uri": "a.csv", "columns": ["id", "id"]}, "columns"),
    ],
)
def test_mistakes_are_seen_before_anything_is_read(params: dict[str, Any], key: str) -> None:
    """One problem each."""
    assert [problem.key for problem in DefaultLoader.check(params, {}, "local")] == [(key,)]
    assert DefaultLoader.check({"source_uri": "a.csv", "columns": ["id"]}, {}, "local") == []


def test_pass_through_brings_nothing(frame: pd.DataFrame) -> None:
    """The very same rows, online and offline."""
    assert PassThrough().augment(frame, online=True) is frame
    assert PassThrough().augment(frame, online=False) is frame
