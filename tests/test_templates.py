"""SQL templates: what a value becomes is decided by its place; hostile ones change nothing, legitimate ones work."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlglot

from recipeline import artifact
from recipeline.components.loaders import DefaultLoader
from recipeline.errors import DataError, RecipeError, RecipelineError, Refused
from recipeline.stores.gate import prove
from recipeline.stores.places import Places
from recipeline.stores.sql import SqlAdapter
from recipeline.stores.templates import Compiled, compile_template

SECRET = "hunter2-canary"

GUIDE = {
    "user_behavior_spine": """\
-- recipes/sql/user_behavior_spine.sql.j2
SELECT\x20
    user_id,
    session_id,
    event_timestamp,
    '{{ target_date }}' as snapshot_date,
    CASE\x20
        WHEN total_spent > {{ high_value_threshold | default(1000) }}
        THEN 1 ELSE 0\x20
    END as target
FROM user_events\x20
WHERE event_date BETWEEN '{{ start_date }}' AND '{{ end_date }}'
    AND event_type = '{{ event_type | default("purchase") }}'
{% if limit is defined %}
LIMIT {{ limit }}
{% endif %}
""",
    "conditional_spine": """\
-- recipes/sql/conditional_spine.sql.j2
SELECT user_id, session_id, event_timestamp
{% if include_features %}
    , feature1, feature2, feature3
{% endif %}
{% if task_type == "classification" %}
    , CASE WHEN conversion = 1 THEN 1 ELSE 0 END as target
{% elif task_type == "regression" %}
    , revenue as target
{% endif %}
FROM events
WHERE date = '{{ target_date }}'
""",
    "multi_feature_spine": """\
-- recipes/sql/multi_feature_spine.sql.j2
SELECT\x20
    user_id,
    event_timestamp,
{% for feature in features %}
    {{ feature }}{{ "," if not loop.last }}
{% endfor %}
FROM feature_table
WHERE user_id IN (
{% for user_id in user_ids %}
    '{{ user_id }}'{{ "," if not loop.last }}
{% endfor %}
)
""",
}  # fmt: skip
"""The three of the guide, to the letter."""

FIRST = {"target_date": "2024-01-01", "start_date": "2023-12-01", "end_date": "2024-01-01", "high_value_threshold": 500, "limit": 10000}
SECOND = {
    "target_date": "2024-01-01",
    "task_type": "classification",
    "include_features": True,
    "features": ["age", "income", "purchase_history"],
    "user_ids": ["user1", "user2", "user3"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables that the guide's templates read, a table for the positions, and a canary."""
    path = tmp_path_factory.mktemp("store") / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE TABLE user_events (user_id, session_id, event_timestamp, total_spent REAL, event_date TEXT, event_type TEXT);
            CREATE TABLE events (user_id, session_id, event_timestamp, feature1, feature2, feature3, conversion, revenue REAL, date TEXT);
            CREATE TABLE feature_table (user_id TEXT, event_timestamp TEXT, age INTEGER, income REAL, purchase_history TEXT);
            CREATE TABLE t (a TEXT, b INTEGER, c REAL, avg_b REAL, "나이" INTEGER);
            CREATE TABLE u (a TEXT, d TEXT);
            CREATE TABLE canary (word TEXT);
            """
        )
        events = [
            ("user1", "s1", "2023-12-24T10:00", 700.0, "2023-12-24", "purchase"),
            ("user2", "s2", "2023-12-25T10:00", 20.0, "2023-12-25", "purchase"),
            ("user3", "s3", "2023-12-26T10:00", 900.0, "2023-12-26", "view"),
            ("user4", "s4", "2024-02-01T10:00", 900.0, "2024-02-01", "purchase"),
        ]
        connection.executemany("INSERT INTO user_events VALUES (?, ?, ?, ?, ?, ?)", events)
        connection.execute("INSERT INTO events VALUES ('user1', 's1', 'x', 1, 2, 3, 1, 9.5, '2024-01-01')")
        connection.execute("INSERT INTO events VALUES ('user2', 's2', 'x', 4, 5, 6, 0, 7.5, '2024-01-02')")
        features = [(f"user{number}", "x", 20 + number, 1000.5 * number, "none") for number in range(1, 6)]
        connection.executemany("INSERT INTO feature_table VALUES (?, ?, ?, ?, ?)", features)
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?, ?)", [("x", 1, 0.5, 1.5, 7), ("y", 2, 1.5, 2.5, 8), ("O'Brien", 3, 2.5, 3.5, 9)]
        )
        connection.executemany("INSERT INTO u VALUES (?, ?)", [("x", "2024-01-01"), ("y", "2024-01-02")])
        connection.execute("INSERT INTO canary VALUES (?)", (SECRET,))
        connection.commit()
    return path


@pytest.fixture(scope="module")
def adapter(store: Path) -> SqlAdapter:
    return SqlAdapter(f"sqlite:///{store}", timeout=30)


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Compiled]:
    """Compiles the text of a template."""

    def compile_text(text: str, /, dialect: str = "sqlite", **params: Any) -> Compiled:
        path = tmp_path / "x.sql.j2"
        path.write_text(text, encoding="utf-8")
        return compile_template(path, params, dialect=dialect)

    return compile_text


def rows(adapter: SqlAdapter, made: Compiled) -> list[tuple[Any, ...]]:
    return list(adapter.read(made.text, made.params).itertuples(index=False, name=None))


# --- the guide -----------------------------------------------------------------------------------------------------------


def test_the_guides_first_template_gives_its_rows(compiled: Any, adapter: SqlAdapter) -> None:
    """Defaults, a threshold, dates between quotes, a limit that may be left out."""
    frame = adapter.read(*_two(compiled(GUIDE["user_behavior_spine"], **FIRST)))
    assert frame["user_id"].tolist() == ["user1", "user2"]
    assert frame["target"].tolist() == [1, 0]
    assert frame["snapshot_date"].tolist() == ["2024-01-01"] * 2
    assert len(adapter.read(*_two(compiled(GUIDE["user_behavior_spine"], **FIRST | {"limit": 1})))) == 1
    without = {name: value for name, value in FIRST.items() if name not in ("limit", "high_value_threshold")}
    assert adapter.read(*_two(compiled(GUIDE["user_behavior_spine"], **without)))["target"].tolist() == [0, 0]
    assert adapter.read(*_two(compiled(GUIDE["user_behavior_spine"], **FIRST, event_type="view")))["user_id"].tolist() == ["user3"]


@pytest.mark.parametrize(("task", "target"), [("classification", 1), ("regression", 9.5)])
def test_the_guides_second_template_gives_its_rows(task: str, target: float, compiled: Any, adapter: SqlAdapter) -> None:
    for features in (True, False):
        params = {"target_date": "2024-01-01", "task_type": task, "include_features": features}
        (row,) = rows(adapter, compiled(GUIDE["conditional_spine"], **params))
        assert row == ("user1", "s1", "x", *((1, 2, 3) if features else ()), target)


def test_the_guides_third_template_gives_its_rows(compiled: Any, adapter: SqlAdapter) -> None:
    frame = adapter.read(*_two(compiled(GUIDE["multi_feature_spine"], **{name: SECOND[name] for name in ("features", "user_ids")})))
    assert frame.columns.tolist() == ["user_id", "event_timestamp", "age", "income", "purchase_history"]
    assert frame["user_id"].tolist() == ["user1", "user2", "user3"]


@pytest.mark.parametrize("dialect", ["postgres", "mysql", "duckdb", "bigquery", "snowflake"])
@pytest.mark.parametrize("name", sorted(GUIDE))
def test_the_guides_templates_compile_for_other_databases(name: str, dialect: str, compiled: Any) -> None:
    made = compiled(GUIDE[name], dialect, **(FIRST if name == "user_behavior_spine" else SECOND))
    assert sqlglot.parse_one(made.text, read=dialect) is not None
    assert len(made.params) == made.text.count(":p") > 0


@pytest.mark.parametrize("name", sorted(GUIDE))
def test_the_guides_parameters_may_be_hostile(name: str, compiled: Any, adapter: SqlAdapter, store: Path) -> None:
    """Every parameter of every template with every hostile value: refused, or the same statement."""
    good = FIRST | {"event_type": "purchase"} if name == "user_behavior_spine" else dict(SECOND)
    reference = shape(compiled(GUIDE[name], **good).text)
    before = store.read_bytes()
    refused = ran = 0
    for parameter, hostile in itertools.product(good, HOSTILE):
        value = [hostile] if isinstance(good[parameter], list) else hostile
        made = _attempt(lambda params=good | {parameter: value}: compiled(GUIDE[name], **params), hostile)
        if made is None:
            refused += 1
            continue
        if parameter not in ("task_type", "include_features", "features", "user_ids"):  # these choose parts of the text, or repeat it
            assert shape(made.text) == reference
        assert len(hostile) < 6 or hostile not in made.text
        with contextlib.suppress(DataError):  # a plain name that no column has
            assert SECRET not in str(rows(adapter, made))
        ran += 1
    assert ran >= 30
    assert store.read_bytes() == before
    assert refused >= (0 if name == "conditional_spine" else 30)  # whose parameters are only compared


def _attempt(compiling: Callable[[], Compiled], hostile: str) -> Compiled | None:
    """What was compiled, or None where it was refused; in that case without a word of the value."""
    with contextlib.ExitStack() as stack:
        caught: list[RecipelineError] = []
        stack.push(lambda kind, error, trace: isinstance(error, RecipelineError) and not caught.append(error))
        return compiling()
    assert caught[0].code in (3, 4)
    assert caught[0].slug.startswith("sql-")
    assert len(hostile) < 6 or hostile not in str(caught[0])
    return None


def _two(made: Compiled) -> tuple[str, Mapping[str, Any]]:
    return made.text, made.params


# --- positions and values ------------------------------------------------------------------------------------------------

HOSTILE = [
    "' OR 1=1 --",
    "'; DROP TABLE canary; --",
    "x' UNION SELECT word FROM canary --",
    "1 OR 1=1",
    "1; DELETE FROM canary",
    "(SELECT word FROM canary)",
    "a) OR (1=1",
    "\\' OR 1=1 --",
    '" OR ""="',
    '"; DROP TABLE canary; --',
    "`a`, `b`",
    "a, word FROM canary --",
    "a FROM t UNION SELECT word FROM canary",
    "/* */ OR 1=1",
    "*",
    "t.*",
    "canary.word",
    "1e999",
    "0x1F",
    "NULL",
    "a'",
    "''",
    "'",
    "`",
    "\\",
    "\x22",
    ";",
    "--",
    "/*",
    "*/",
    "a b",
    "a-b",
    "a\nb",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{{ canary }}",
    ":p1",
    ":p2",
    "?",
    "$1",
    "%s",
    "%(p1)s",
    "@a",
    "load_extension('x')",
    "sqlite_version()",
    "a;",
    "a\u2019 OR 1=1",
    "\u02bc OR 1=1 --",
    "\uff07 OR 1=1",
    "CASE WHEN 1 THEN 1 END",
    "a COLLATE nocase",
    "DESC",
    "1, 2",
    "-1",
    "1 UNION ALL SELECT 2",
    "a AS b",
    "ON 1=1",
    "ROWID OR 1",
    "x\u202e",
    "E'a'",
    "$$a$$",
    "[a]",
    "[a",
    "pq|",
    "a.b.c.d",
]

POSITIONS: dict[str, tuple[str, Any, int]] = {
    # name: (template, a legitimate value, rows that it gives)
    "text": ("SELECT a FROM t WHERE a = '{{ v }}'", "x", 1),
    "part of a text": ("SELECT a FROM t WHERE a LIKE '%{{ v }}%'", "Brien", 1),
    "two in a text": ("SELECT a FROM t WHERE a = '{{ v }}{{ v }}'", "x", 0),
    "beside a quote": ("SELECT a FROM t WHERE a = 'O''{{ v }}'", "Brien", 1),
    "selected text": ("SELECT '{{ v }}' AS s FROM t LIMIT 1", "x", 1),
    "text argument": ("SELECT a FROM t WHERE lower('{{ v }}') = 'x'", "X", 3),
    "text in a CASE": ("SELECT CASE WHEN b > 1 THEN '{{ v }}' ELSE 'n' END AS s FROM t", "x", 3),
    "text between": ("SELECT a FROM u WHERE d BETWEEN '{{ v }}' AND '2024-01-09'", "2024-01-02", 1),
    "equal": ("SELECT a FROM t WHERE a = {{ v }}", "O'Brien", 1),
    "unequal": ("SELECT a FROM t WHERE a <> {{ v }}", "x", 2),
    "like": ("SELECT a FROM t WHERE a LIKE {{ v }}", "%r%", 1),
    "member": ("SELECT a FROM t WHERE a IN ({{ v }}, 'y')", "x", 2),
    "greater": ("SELECT a FROM u WHERE d > {{ v }}", "2024-01-01", 1),
    "low": ("SELECT a FROM u WHERE d BETWEEN {{ v }} AND '2024-01-09'", "2024-01-01", 2),
    "having": ("SELECT a FROM t GROUP BY a HAVING max(a) = {{ v }}", "x", 1),
    "join": ("SELECT t.a FROM t JOIN u ON t.a = u.a AND u.d = {{ v }}", "2024-01-01", 1),
    "subquery": ("SELECT a FROM t WHERE a IN (SELECT a FROM u WHERE d = '{{ v }}')", "2024-01-02", 1),
    "in a CTE": ("WITH q AS (SELECT a FROM t WHERE a = '{{ v }}') SELECT * FROM q", "y", 1),
    "IN list": ("SELECT a FROM t WHERE a IN {{ [v] }}", "x", 1),
    "macro": ("{% macro m(z) %}a = {{ z }}{% endmacro %}SELECT a FROM t WHERE {{ m(v) }}", "x", 1),
    "loop": ("SELECT a FROM t WHERE a IN ({% for z in [v, v] %}{{ z }}{{ ',' if not loop.last }}{% endfor %})", "x", 1),
    "item": ("SELECT {{ v }} FROM t", "a", 3),
    "Korean item": ("SELECT {{ v }} FROM t", "나이", 3),
    "items": ("SELECT {{ [v, 'b'] }} FROM t", "a", 3),
    "column of a table": ("SELECT t.{{ v }} FROM t", "a", 3),
    "table of a column": ("SELECT {{ v }}.a FROM t", "t", 3),
    "glued": ("SELECT avg_{{ v }} FROM t", "b", 3),
    "quoted name": ('SELECT "avg_{{ v }}" FROM t', "b", 3),
    "whole quoted name": ('SELECT "{{ v }}" FROM t', "a", 3),
    "table": ("SELECT a FROM {{ v }}", "t", 3),
    "joined table": ("SELECT t.a FROM t JOIN {{ v }} AS o ON t.a = o.a", "u", 2),
    "alias": ("SELECT b AS {{ v }} FROM t", "n", 3),
    "table alias": ("SELECT 1 AS n FROM t AS {{ v }}", "n", 3),
    "using": ("SELECT t.b FROM t JOIN u USING ({{ v }})", "a", 2),
    "order": ("SELECT a FROM t ORDER BY {{ v }} DESC", "b", 3),
    "group": ("SELECT count(*) AS n FROM t GROUP BY {{ v }}", "b", 3),
    "partition": ("SELECT row_number() OVER (PARTITION BY {{ v }} ORDER BY b) AS n FROM t", "a", 3),
    "identifier": ("SELECT a FROM t WHERE {{ v | identifier }} > 0", "b", 3),
    "limit": ("SELECT a FROM t LIMIT {{ v }}", 2, 2),
    "offset": ("SELECT a FROM t LIMIT 5 OFFSET {{ v }}", 1, 2),
    "number on the left": ("SELECT a FROM t WHERE {{ v }} < b", 1, 2),
    "arithmetic": ("SELECT b + {{ v }} AS n FROM t", 1, 3),
    "argument": ("SELECT coalesce(b, {{ v }}) AS n FROM t", 1, 3),
    "aliased item": ("SELECT {{ v }} AS n FROM t", 4, 3),
    "arm": ("SELECT CASE WHEN b = 1 THEN {{ v }} ELSE 0 END AS n FROM t", 4, 3),
    "condition": ("SELECT a FROM t WHERE {{ v }}", True, 3),
    "and": ("SELECT a FROM t WHERE b > 1 AND {{ v }}", True, 2),
    "not": ("SELECT a FROM t WHERE NOT {{ v }}", False, 3),
    "row": ("SELECT a FROM t WHERE (a, b) IN (({{ v }}, 1))", "x", 1),
}


def shape(text: str, dialect: str = "sqlite") -> list[str]:
    """The kinds of the nodes of a statement, without names and values."""
    return [f"{type(node).__name__}.{node.arg_key}" for node in sqlglot.parse_one(text, read=dialect).walk()]


def opcodes(store: Path, made: Compiled) -> list[str]:
    """What the database itself makes of the statement: the second road."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return [row[1] for row in connection.execute("EXPLAIN " + made.text, dict(made.params))]


@pytest.mark.parametrize("position", sorted(POSITIONS))
def test_a_legitimate_value_works_and_a_hostile_one_changes_nothing(position: str, compiled: Any, adapter: SqlAdapter, store: Path) -> None:
    """Refused, or one more value of the same statement: same tree, same program of the database, no row too many."""
    text, good, expected = POSITIONS[position]
    control = compiled(text, v=good)
    assert len(adapter.read(control.text, control.params)) == expected
    before, tree = store.read_bytes(), shape(control.text)
    program = opcodes(store, control)
    ran = refused = 0
    for hostile in HOSTILE:
        made = _attempt(lambda value=hostile: compiled(text, v=value), hostile)
        if made is None:
            refused += 1
            continue
        assert shape(made.text) == tree or (position in ("table", "joined table") and "." in hostile), hostile
        try:
            found = adapter.read(made.text, made.params)
        except DataError:  # a plain name (NULL, DESC) that no column has
            ran += 1
            continue
        if made.params:
            assert opcodes(store, made) == program, hostile
        assert SECRET not in str(found.to_numpy().tolist())
        ran += 1
    assert ran + refused == len(HOSTILE)
    assert store.read_bytes() == before
    names = isinstance(good, str) and not control.params
    if isinstance(good, str) and not names and position not in ("items", "identifier"):
        assert ran >= len(HOSTILE) - 12  # a value is only text; what reads as a number is refused beside < and >
    else:
        assert refused >= len(HOSTILE) - 6


def test_there_are_enough_probes() -> None:
    assert len(POSITIONS) >= 40
    assert len(HOSTILE) >= 60


KEYWORDS = [
    "SELECT a FROM t ORDER BY a {{ v }}",
    "SELECT a {{ v }} FROM t",
    "SELECT {{ v }}(a) FROM t",
    "SELECT CAST(a AS {{ v }}) FROM t",
    "SELECT a FROM t {{ v }} u",
    "SELECT a FROM t WHERE a {{ v }} 3",
    "{{ v }} a FROM t",
    "SELECT a FROM t WHERE a IS {{ v }}",
    "SELECT json_extract(a, '$.{{ v }}') AS j FROM t",
    "SELECT a FROM t {{ v }}",
    "SELECT a FROM t WHERE a = 'x' COLLATE {{ v }}",
    "WITH {{ v }} AS (SELECT 1 AS a) SELECT a FROM t",
    "SELECT a FROM t LIMIT '{{ v }}'",
    "SELECT a FROM '{{ v }}'",
    "SELECT a AS '{{ v }}' FROM t",
    "SELECT EXTRACT({{ v }} FROM a) FROM t",
    "SELECT a FROM t LIMIT {{ v }}0",
    "SELECT a FROM t {{ v }} JOIN u ON 1 = 1",
    "SELECT x'{{ v }}' AS a",
    "{{ v }}",
]


@pytest.mark.parametrize("text", KEYWORDS)
@pytest.mark.parametrize("value", ["DESC", "x", "LEFT", 3, True, None, ["a"]])
def test_a_value_has_no_place_where_sql_has_words(text: str, value: Any, compiled: Any) -> None:
    with pytest.raises(Refused) as caught:
        compiled(text, v=value)
    assert caught.value.slug.startswith("sql-")
    assert caught.value.code == 4


def test_a_constant_of_the_template_may_be_anything(compiled: Any, adapter: SqlAdapter) -> None:
    """The control of the refusals above: the author chooses, the parameter only decides."""
    for word, first in (("DESC", "y"), ("ASC", "O'Brien")):
        made = compiled('SELECT a FROM t ORDER BY a {{ "DESC" if down else "ASC" }}', down=word == "DESC")
        assert rows(adapter, made)[0] == (first,)
    assert len(rows(adapter, compiled("SELECT {{ 'max' }}(b) AS m FROM t"))) == 1


TABLE: list[tuple[str, Any, str | None]] = [
    # the table of positions and types: what is not a text above
    ("SELECT a FROM t WHERE b = {{ v }}", 1, None),
    ("SELECT a FROM t WHERE b = {{ v }}", 1.0, None),
    ("SELECT a FROM t WHERE b = {{ v }}", True, None),
    ("SELECT a FROM t WHERE b = {{ v }}", None, "sql-value"),
    ("SELECT a FROM t WHERE b = {{ v }}", [1], "sql-value"),
    ("SELECT a FROM t WHERE b = {{ v }}", {"a": 1}, "sql-value"),
    ("SELECT a FROM t WHERE b = {{ v }}", b"x", "sql-value"),
    ("SELECT a FROM t WHERE a = '{{ v }}'", 3, None),
    ("SELECT a FROM t WHERE a = '{{ v }}'", dt.date(2024, 1, 1), None),
    ("SELECT a FROM t WHERE a = '{{ v }}'", True, "sql-value"),
    ("SELECT a FROM t WHERE a = '{{ v }}'", None, "sql-value"),
    ("SELECT a FROM t WHERE a = '{{ v }}'", ["x"], "sql-value"),
    ("SELECT a FROM t WHERE b > {{ v }}", 1, None),
    ("SELECT a FROM t WHERE b > {{ v }}", "1", "sql-value"),
    ("SELECT a FROM t WHERE b > {{ v }}", " 1e3 ", "sql-value"),
    ("SELECT a FROM t WHERE b > '{{ v }}'", "1", None),
    ("SELECT a FROM t WHERE b > {{ v }}", None, "sql-value"),
    ("SELECT a FROM t WHERE a IN {{ v }}", ["x", "y"], None),
    ("SELECT a FROM t WHERE a IN ({{ v }})", ["x", "y"], None),
    ("SELECT a FROM t WHERE a IN ({{ v }})", "x", None),
    ("SELECT a FROM t WHERE a IN ({{ v }})", [], None),
    ("SELECT a FROM t WHERE a IN {{ v }}", [], None),
    ("SELECT a FROM t WHERE a IN {{ v }}", "x", "sql-value"),
    ("SELECT a FROM t WHERE a IN ({{ v }})", ["x", None], "sql-value"),
    ("SELECT a FROM t WHERE a IN ({{ v }})", [["x"]], "sql-value"),
    ("SELECT a FROM t WHERE a IN ('y', {{ v }})", [], "sql-empty-list"),
    ("SELECT a FROM t WHERE {{ v }} = a", "x", "sql-ambiguous"),
    ("SELECT a FROM t WHERE '{{ v }}' = a", "x", None),
    ("SELECT a FROM t WHERE lower({{ v }}) = a", "x", "sql-ambiguous"),
    ("SELECT {{ v }} AS n FROM t", "x", "sql-ambiguous"),
    ("SELECT {{ v }} AS n, a FROM t WHERE a = 'x'", 1, None),
    ("SELECT coalesce(b, {{ v }}) AS n FROM t", None, None),
    ("SELECT {{ v }} FROM t", ["a", "b"], None),
    ("SELECT {{ v }} FROM t", [], "sql-empty-list"),
    ("SELECT {{ v }} FROM t", ["a", 3], "sql-identifier"),
    ("SELECT a FROM t ORDER BY {{ v }}", 1, None),
    ("SELECT a FROM t ORDER BY {{ v }}", ["a", "b"], None),
    ("SELECT a FROM t ORDER BY {{ v }}", 0, "sql-value"),
    ("SELECT a FROM t ORDER BY {{ v }}", 1000, "sql-value"),
    ("SELECT a FROM t ORDER BY {{ v }}", True, "sql-value"),
    ("SELECT a FROM {{ v }}", "main.t", None),
    ("SELECT a FROM {{ v }}", "a.b.c.d", "sql-identifier"),
    ("SELECT a FROM {{ v }}", 3, "sql-identifier"),
    ("SELECT a FROM {{ v }}", "sqlite_master", "sql-system-table"),
    ("SELECT avg_{{ v }} FROM t", "b", None),
    ("SELECT avg_{{ v }} FROM t", None, "sql-identifier"),
    ("SELECT {{ v | identifier }} FROM t", None, "sql-identifier"),
    ("SELECT {{ v | identifier }} FROM t", 3, "sql-identifier"),
    ("SELECT a FROM t LIMIT {{ v }}", 0, None),
    ("SELECT a FROM t LIMIT {{ v }}", "10", "sql-limit"),
    ("SELECT a FROM t LIMIT {{ v }}", -1, "sql-limit"),
    ("SELECT a FROM t LIMIT {{ v }}", 1.5, "sql-limit"),
    ("SELECT a FROM t LIMIT {{ v }}", True, "sql-limit"),
    ("SELECT a FROM t LIMIT {{ v | int }}", "10", None),
    ("SELECT a FROM t WHERE {{ v }}", False, None),
    ("SELECT a FROM t WHERE {{ v }}", 1, "sql-value"),
    ("SELECT a FROM t WHERE {{ v }}", "1", "sql-value"),
    ("SELECT {{ v }} FROM t", "a" * 64, "sql-identifier"),
    ("SELECT {{ v }} FROM t", "", "sql-identifier"),
]


@pytest.mark.parametrize(("text", "value", "slug"), TABLE)
def test_the_table_of_places_and_types(text: str, value: Any, slug: str | None, compiled: Any, adapter: SqlAdapter) -> None:
    if slug is None:
        made = compiled(text, v=value)
        adapter.read(made.text, made.params)
        return
    with pytest.raises(RecipelineError) as caught:
        compiled(text, v=value)
    assert caught.value.slug == slug


MESSAGES: list[tuple[str, dict[str, Any], str, str]] = [
    ("SELECT a FROM t WHERE {% call m() %}{% endcall %}", {}, "sql-template", "line 1: {% call %}"),
    ("SELECT a\nFROM t {% filter upper %}x{% endfilter %}", {}, "sql-template", "line 2: {% filter %}"),
    ("{% extends 'x' %}", {}, "sql-template", "extends"),
    ("{% block a %}{% endblock %}SELECT a FROM t", {}, "sql-template", "block"),
    ("{% autoescape true %}{% endautoescape %}SELECT a FROM t", {}, "sql-template", "autoescape"),
    ("{% set a %}x{% endset %}SELECT a FROM t", {}, "sql-template", "set"),
    ("{% include name %}SELECT a FROM t", {"name": "x"}, "sql-template", "include"),
    ("SELECT {{ v | safe }} FROM t", {"v": "a"}, "sql-template", "filter safe"),
    ("SELECT {{ v | tojson }} FROM t", {"v": "a"}, "sql-template", "filter tojson"),
    ("SELECT {{ v | attr('x') }} FROM t", {"v": "a"}, "sql-template", "filter attr"),
    ("SELECT {{ '%s' | format(v) }} FROM t", {"v": "a"}, "sql-template", "filter format"),
    ("SELECT {{ cycler.__init__.__globals__ }}", {}, "sql-template", "private"),
    ("SELECT {{ v['__class__'] }}", {"v": "a"}, "sql-template", "private"),
    ("SELECT {{ v.format(1) }}", {"v": "a"}, "sql-template", "call"),
    ("SELECT {{ v * 100000000 }} FROM t", {"v": "a"}, "sql-template", "text or a list"),
    ("SELECT {{ '%s' % v }} FROM t", {"v": "a"}, "sql-template", "%"),
    ("{% macro m(x) %}{{ x }}{% endmacro %}SELECT {{ m(v) | upper }} FROM t", {"v": "a"}, "sql-macro-text", "call the macro where"),
    ("{% macro m(x) %}{{ x }}{% endmacro %}SELECT {{ m(v) ~ v }} FROM t", {"v": "a"}, "sql-macro-text", "call the macro where"),
    ("{% macro m(x) %}1{% endmacro %}SELECT {% if m(v) == '1' %}a{% endif %} FROM t", {"v": "a"}, "sql-macro-text", "call the macro where"),
    ('SELECT a FROM t WHERE a = {{ "\'" ~ v ~ "\'" }}', {"v": "a"}, "sql-quotes", "write '{{ x }}', or IN ({{ xs }})"),
    ("SELECT a FROM t WHERE a IN ('{{ xs | join(\"','\") }}')", {"xs": ["a"]}, "sql-quotes", "write '{{ x }}', or IN ({{ xs }})"),
    ("SELECT {{ xs | join(',') }} FROM t", {"xs": ["a", "b"]}, "sql-join", "write {{ xs }}; a list expands"),
    ("SELECT a FROM t WHERE b IN ({{ xs | join(',') }})", {"xs": [1, 2]}, "sql-join", "write {{ xs }}; a list expands"),
    ("SELECT a FROM t WHERE {{ v }} = a", {"v": "x"}, "sql-ambiguous", "write '{{ x }}' (value) or {{ x | identifier }} (name)"),
    ("SELECT a FROM t ORDER BY a {{ v }}", {"v": "DESC"}, "sql-position", 'choose with {% if %} or {{ "DESC" if d else "ASC" }}'),
    ("SELECT {{ v }} FROM t", {"v": "a b"}, "sql-identifier", "not a plain column or table name"),
    ("SELECT a FROM t WHERE a = {{ v }}", {"v": None}, "sql-value", "null is never equal; write … IS NULL"),
    ("SELECT a FROM t LIMIT {{ v }}", {"v": "10"}, "sql-limit", "needs a whole number ≥ 0, got text"),
    ("SELECT a, {% for x in xs %}{{ x }}{% endfor %} FROM t", {"xs": []}, "sql-empty-list", "{% if %}"),
    ("SELECT a FROM t WHERE a = {{ v if c }}", {"v": "x", "c": True}, "sql-no-else", "without else"),
    ("SELECT a FROM t WHERE a IN ({% for x in v %}{{ x }}{% endfor %})", {"v": "abc"}, "sql-value", "needs a list, got text"),
    ("SELECT a FROM t WHERE a = :v", {}, "sql-parameter", "write {{ name }} in a template"),
    ("DELETE FROM t WHERE a = '{{ v }}'", {"v": "x"}, "sql-not-select", "DELETE"),
    ("WITH d AS (DELETE FROM t RETURNING a) SELECT * FROM d WHERE a = '{{ v }}'", {"v": "x"}, "sql-refused", "DELETE"),
    ("SELECT load_extension('{{ v }}') AS a", {"v": "x"}, "sql-function", "load_extension"),
    ("SELECT a FROM t; SELECT '{{ v }}' AS a", {"v": "x"}, "sql-statements", "2 statements"),
]


@pytest.mark.parametrize(("text", "params", "slug", "words"), MESSAGES)
def test_a_refusal_says_what_to_write(text: str, params: dict[str, Any], slug: str, words: str, compiled: Any) -> None:
    with pytest.raises(Refused) as caught:
        compiled(text, **params)
    assert caught.value.slug == slug
    assert words in str(caught.value)
    assert caught.value.code == 4


@pytest.mark.parametrize("text", [text for text, *_ in MESSAGES if "'" not in text and "v" in text])
def test_no_message_shows_a_value(text: str, compiled: Any) -> None:
    for value in (f"{SECRET};{SECRET}" + "\0", [{"k": SECRET}], {"k": SECRET}):
        with pytest.raises(RecipelineError) as caught:
            compiled(text, v=value, xs=[SECRET, SECRET + " "], c=1)
        assert SECRET not in str(caught.value)
        assert SECRET not in json.dumps(caught.value.as_dict())


# --- Jinja ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        ("SELECT a FROM t WHERE a = '{{ v | upper | lower }}'", {"v": "X"}, 1),
        ("SELECT a FROM t WHERE a = '{{ v ~ w }}'", {"v": "O'", "w": "Brien"}, 1),
        ("SELECT a FROM t WHERE b = {{ n + 1 }}", {"n": 1}, 1),
        ("SELECT a FROM t WHERE a = '{{ d.k[0] }}'", {"d": {"k": ["x"]}}, 1),
        ("SELECT a FROM t WHERE a = '{{ d.get(\"k\") }}'", {"d": {"k": "x"}}, 1),
        ("{% set w = v %}SELECT a FROM t WHERE a = {{ w }}", {"v": "x"}, 1),
        (
            "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}SELECT a FROM t WHERE b = {{ ns.n }}",
            {"xs": [1, 2]},
            1,
        ),
        ("SELECT a FROM t WHERE b IN ({% for i in range(3) %}{{ i }}{{ ', ' if not loop.last }}{% endfor %})", {}, 2),
        (
            "SELECT a FROM t WHERE 1 = 1 {% for k, v in f.items() %} AND {{ k | identifier }} = {{ v }}{% endfor %}",
            {"f": {"a": "x", "b": 1}},
            1,
        ),
        ("SELECT a FROM t WHERE a IN ({{ xs | map('lower') | list }})", {"xs": ["X", "Y"]}, 2),
        ("SELECT a FROM t WHERE a IN ({{ xs | map('lower') }})", {"xs": ["X", "Y"]}, 2),
        ("SELECT a FROM t {% if v is defined and v %}WHERE a = {{ v }}{% endif %}", {}, 3),
        ("SELECT a FROM t WHERE a = {{ v | default('x') }} -- {{ v | default('comment') }}", {}, 1),
        (
            "{% macro eq(c, v) %}{{ c | identifier }} = {{ v }}{% endmacro %}SELECT a FROM t WHERE {{ eq('a', v) }} OR {{ eq('a', w) }}",
            {"v": "x", "w": "y"},
            2,
        ),
        ("SELECT a FROM t WHERE {% with z = v %}a = {{ z }}{% endwith %}", {"v": "x"}, 1),
        ("SELECT a FROM t WHERE a = {{ v if c else w }}", {"v": "x", "w": "y", "c": False}, 1),
        ("SELECT strftime('{{ f }}', d) AS y FROM u", {"f": "%Y"}, 2),
        ("SELECT a FROM t WHERE a = {{ v }}{# a comment {{ v }} #}", {"v": "x"}, 1),
        ("SELECT {{ f }} AS x FROM t", {"f": 1.5}, 3),
        ("SELECT a FROM t WHERE a = {{ self_ }}", {"self_": "x"}, 1),
        ("SELECT a AS c{{ loop_ }}{{ n }} FROM t", {"loop_": "x", "n": 2}, 3),
        ("SELECT `{{ f }}` FROM t", {"f": "a"}, 3),
        ("SELECT a FROM t WHERE a LIKE '{{ v }}!_%' ESCAPE '!'", {"v": "x"}, 0),
        ("SELECT a FROM t WHERE (a = {{ v }} OR (b = {{ n }}))", {"v": "x", "n": 2}, 2),
        ("SELECT iif(b > {{ n }}, 1, 0) AS x FROM t", {"n": 2}, 3),
        ("SELECT a FROM t WHERE b > (SELECT min(b) FROM t WHERE a <> {{ v }})", {"v": "x"}, 1),
        ("SELECT a FROM t UNION ALL SELECT a FROM u WHERE d = '{{ v }}'", {"v": "2024-01-01"}, 4),
    ],
)
def test_what_templates_are_made_of_works(text: str, params: dict[str, Any], expected: int, compiled: Any, adapter: SqlAdapter) -> None:
    made = compiled(text, **params)
    assert len(adapter.read(made.text, made.params)) == expected


def test_the_authors_text_stays_but_its_comments(compiled: Any) -> None:
    made = compiled("SELECT a /* {{ v }} */, 'it''s -- :x' AS s -- {{ v }}\nFROM t WHERE  a='{{ v }}'AND b=1", v="x")
    assert made.text == "SELECT a , 'it''s -- :x' AS s\nFROM t WHERE a=:p1 AND b=1"
    assert made.params == {"p1": "x"}


def test_includes_and_imports_come_from_the_templates_folder(tmp_path: Path, adapter: SqlAdapter) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "outside.sql.j2").write_text("a = 'x'")
    (tmp_path / "sql" / "where.sql.j2").write_text("a = {{ v }}")
    (tmp_path / "sql" / "macros.sql.j2").write_text("{% macro eq(c, v) %}{{ c | identifier }} = {{ v }}{% endmacro %}")
    main = tmp_path / "sql" / "main.sql.j2"
    main.write_text("{% from 'macros.sql.j2' import eq %}SELECT a FROM t WHERE {% include 'where.sql.j2' %} AND {{ eq('b', n) }}")
    made = compile_template(main, {"v": "x", "n": 1}, dialect="sqlite")
    assert rows(adapter, made) == [("x",)]
    assert sorted(made.documents) == ["macros.sql.j2", "main.sql.j2", "where.sql.j2"]
    with pytest.raises(RecipeError, match="parameter v") as missing:
        compile_template(main, {"n": 1}, dialect="sqlite")
    assert missing.value.where == "where.sql.j2:1"
    (tmp_path / "sql" / "link.sql.j2").symlink_to(tmp_path / "outside.sql.j2")
    for name in ("../outside.sql.j2", "../../x", str(tmp_path / "outside.sql.j2"), "link.sql.j2", "a/../../outside.sql.j2"):
        main.write_text(f"SELECT a FROM t WHERE {{% include '{name}' %}}")
        with pytest.raises(Refused) as caught:
            compile_template(main, {}, dialect="sqlite")
        assert caught.value.slug == "sql-template"
    main.write_text("SELECT a FROM t WHERE {% include 'no.sql.j2' %}")
    with pytest.raises(DataError, match=r"no\.sql\.j2"):
        compile_template(main, {}, dialect="sqlite")


@pytest.mark.parametrize("text", ["SELECT {{ a", "SELECT {% if %}", "{% endif %}", "SELECT {{ a | }}", "{% macro %}"])
def test_what_is_no_template_is_a_mistake_with_its_line(text: str, compiled: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        compiled("\n" + text)
    assert caught.value.slug == "sql-template-syntax"
    assert caught.value.where == "x.sql.j2:2"


def test_an_expression_that_fails_says_its_line_and_no_value(compiled: Any) -> None:
    for text in ("{{ v + 1 }}", "{{ 1 / n }}", "{{ v.k }}", "{{ v[SECRET] }}", "{{ v | sum }}"):
        with pytest.raises(RecipelineError) as caught:
            compiled(f"SELECT a FROM t\nWHERE a = {text}", v=SECRET, n=0, SECRET=SECRET)
        assert caught.value.where == "x.sql.j2:2", text
        assert caught.value.code in (3, 4)
        assert SECRET not in str(caught.value)


# --- parameters ----------------------------------------------------------------------------------------------------------


def test_a_missing_parameter_is_named_with_its_line(compiled: Any) -> None:
    with pytest.raises(RecipeError, match="start_date") as caught:
        compiled(GUIDE["user_behavior_spine"], target_date="2024-01-01", end_date="2024-01-01")
    assert (caught.value.slug, caught.value.code) == ("missing-parameter", 3)
    assert caught.value.where == "x.sql.j2:12"


def test_a_misspelt_parameter_is_an_error_and_a_foreign_one_a_warning(compiled: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Misspelt is what looks like a parameter that was not given; the guide's second call leaves three unused."""
    with pytest.raises(RecipeError, match="did you mean event_type") as caught:
        compiled(GUIDE["user_behavior_spine"], **FIRST, even_type="view")
    assert (caught.value.slug, caught.value.code) == ("unknown-parameter", 3)
    compiled(GUIDE["user_behavior_spine"], **FIRST, evaluation_day="2024-01-07")
    assert "evaluation_day" in caplog.text
    assert "2024-01-07" not in caplog.text
    caplog.clear()
    compiled(GUIDE["conditional_spine"], **SECOND)
    assert "features, user_ids" in caplog.text
    caplog.clear()
    compiled(GUIDE["user_behavior_spine"], **FIRST)
    assert not caplog.text


@pytest.mark.parametrize(
    "value",
    ["a\0b", "a\ud800", float("nan"), float("inf"), 2**63, -(2**63) - 1, "x" * 1_000_001, [[[[[[[[[1]]]]]]]]]],
    ids=["nul", "surrogate", "nan", "infinity", "large", "small", "long", "deep"],
)
def test_values_that_no_database_has_are_named_by_their_path(value: Any, compiled: Any) -> None:
    """Used or not."""
    for text in ("SELECT a FROM t", "SELECT a FROM t WHERE a = {{ ids[1] }}"):
        with pytest.raises(RecipeError, match=r"context_params\.ids\[1\]") as caught:
            compiled(text, ids=["x", value])
        assert caught.value.slug == "sql-value"
    compiled("SELECT a FROM t WHERE a = {{ ids[1] }}", ids=["x", 2**63 - 1])


# --- lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "SELECT user_id FROM feature_table WHERE user_id IN {{ xs }}",
        "SELECT user_id FROM feature_table WHERE user_id IN ({{ xs }})",
        "SELECT user_id FROM feature_table WHERE user_id IN ({% for x in xs %}'{{ x }}'{{ ',' if not loop.last }}{% endfor %})",
    ],
)
@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 100_000])
def test_lists_of_any_length_work(text: str, size: int, compiled: Any, adapter: SqlAdapter) -> None:
    """None and 100,000 included; what is not in them is not found, what is not in an empty one is everything."""
    values = [f"user{number}" for number in range(1, size + 1)]
    assert len(rows(adapter, compiled(text, xs=values))) == min(size, 5)
    if size < 100_000:
        assert len(rows(adapter, compiled(text.replace(" IN", " NOT IN"), xs=values))) == 5 - min(size, 5)


@pytest.mark.parametrize("column", ["typed_text", "typed_number", "typed_real", "untyped"])
def test_a_list_as_one_value_compares_as_its_members_would(column: str, tmp_path: Path, compiled: Any) -> None:
    """SQLite converts by the column's affinity: the same for 1,000 binds as for one JSON."""
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE c (typed_text TEXT, typed_number INTEGER, typed_real REAL, untyped)")
        values = [5, "5", 2**53 + 1, "x", "5.0", 7, "é'\"\\", -(2**63), 2**63 - 1, True]
        connection.executemany("INSERT INTO c VALUES (?, ?, ?, ?)", [(value,) * 4 for value in values])
        connection.commit()
    adapter = SqlAdapter(f"sqlite:///{path}")
    filling = [f"filling{number}" for number in range(1001)]
    large = [2**53 + 1] if column != "typed_real" else [2**53]  # beyond it SQLite itself compares fractions in two ways
    for chosen in ([5], ["5"], large, ["x", 7], ["é'\"\\"], [max(large), -(2**53)], [True]):
        short = compiled(f"SELECT rowid AS i FROM c WHERE {column} IN {{{{ xs }}}}", xs=chosen + filling[:9])
        long = compiled(f"SELECT rowid AS i FROM c WHERE {column} IN {{{{ xs }}}}", xs=chosen + filling)
        assert len(short.params) == len(chosen) + 9
        assert len(long.params) == 1
        assert rows(adapter, short) == rows(adapter, long)
    assert rows(adapter, compiled("SELECT rowid AS i FROM c WHERE typed_text IN {{ xs }}", xs=["x"])) == [(4,)]


def test_more_than_the_database_can_bind_is_refused(compiled: Any, adapter: SqlAdapter) -> None:
    halves = [number + 0.5 for number in range(40_000)]
    with pytest.raises(Refused) as caught:
        compiled("SELECT a FROM t WHERE c IN {{ xs }}", xs=halves)
    assert caught.value.slug == "sql-too-many"
    assert len(rows(adapter, compiled("SELECT a FROM t WHERE c IN {{ xs }}", xs=halves[:5000]))) == 3
    with pytest.raises(Refused, match="100,000 items"):
        compiled("SELECT a FROM t WHERE b IN {{ xs }}", xs=list(range(100_001)))


OPERANDS = [
    "a", "t.a", "lower(a)", "a || 'x'", "(a || 'x')", "b + 1", "-b", "coalesce(a, 'z')", "CAST(b AS CHAR)", "b + {{ n }}", "'{{ n }}'",
    "CASE WHEN b > 1 THEN 'x' ELSE 'y' END", "(SELECT max(b) FROM t AS u WHERE u.a = t.a)", "{{ column | identifier }}",
]  # fmt: skip
FRAMES = [
    "SELECT a, b FROM t WHERE {} ORDER BY a, b",
    "SELECT a, b FROM t WHERE NOT {} ORDER BY a, b",
    "SELECT a, b FROM t WHERE b > {{{{ n }}}} AND {} OR b = 2 ORDER BY a, b",
    "SELECT a, b FROM t WHERE b = 2 OR NOT ({}) AND c > 0 ORDER BY a, b",
    "SELECT a, b, CASE WHEN {} THEN 1 ELSE 0 END AS flag FROM t ORDER BY a, b",
    "WITH q AS (SELECT a, b FROM t WHERE {}) SELECT count(*) AS n FROM q",
    "SELECT a, b FROM t WHERE b IN (SELECT b FROM t WHERE {}) OR a = {{{{ column }}}} ORDER BY a, b",
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("dialect", ["postgres", "mysql", "duckdb", "bigquery", "snowflake"])
def test_an_empty_list_is_false_where_the_database_has_none(dialect: str, frame: str, compiled: Any, adapter: SqlAdapter) -> None:
    """The statement for each database, told to SQLite by sqlglot, gives what SQLite gives for its own `IN ()`."""
    lists = ["IN {{ xs }}", "IN ({{ xs }})", "NOT IN ({% for x in xs %}'{{ x }}'{{ ',' if not loop.last }}{% endfor %})"]
    turn = FRAMES.index(frame)
    for number, operand in enumerate(OPERANDS):
        members = lists[(number + turn) % len(lists)]
        if dialect == "mysql" and operand == "a || 'x'":
            continue  # there it says OR
        text = frame.format(f"{operand} {members}")
        theirs = compiled(text, dialect, xs=[], n=1, column="a")
        assert "(1 = 0)" in theirs.text
        (told,) = sqlglot.transpile(theirs.text.replace('"A"', '"a"'), read=dialect, write="sqlite")
        ours = compiled(text, xs=[], n=1, column="a")
        assert rows(adapter, Compiled(told, theirs.params, {})) == rows(adapter, ours), (text, theirs.text)
        assert len(compiled(text, dialect, xs=["x"], n=1, column="a").params) >= 1


def test_two_empty_lists_and_one_that_is_not(compiled: Any, adapter: SqlAdapter) -> None:
    text = "SELECT a FROM t WHERE (a IN {{ xs }} OR b NOT IN ({{ ys }})) AND c IN ({{ zs }}) AND a NOT IN ()"
    made = compiled(text, "postgres", xs=[], ys=[], zs=[0.5, 1.5])
    assert made.text == "SELECT a FROM t WHERE ((1 = 0) OR NOT (1 = 0)) AND c IN (:p1, :p2) AND NOT (1 = 0)"
    with pytest.raises(Refused, match="among the members") as caught:
        compiled("SELECT a FROM t WHERE a IN ('y', {{ xs }})", "postgres", xs=[])
    assert caught.value.slug == "sql-empty-list"


def test_a_query_file_takes_lists_too(adapter: SqlAdapter) -> None:
    query = "SELECT a FROM t WHERE a IN (:xs) AND b > :b"
    assert len(adapter.read(query, {"xs": ["x", "y"], "b": 0})) == 2
    assert len(adapter.read(query, {"xs": [], "b": 0})) == 0
    assert len(adapter.read("SELECT ':xs' AS s, a FROM t WHERE a IN ( :xs )", {"xs": ["x"]})) == 1
    for wrong in ("SELECT :xs AS a", "SELECT a FROM t WHERE a IN (:xs, 'y')", "SELECT a FROM t WHERE a = :xs"):
        with pytest.raises(RecipeError, match="IN"):
            adapter.read(wrong, {"xs": ["x"]})


# --- other databases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "text", "params", "expected"),
    [
        ("postgres", "SELECT {{ f }} FROM t", {"f": "Age"}, 'SELECT "age" FROM t'),
        ("postgres", "SELECT {{ f | identifier }} FROM t", {"f": "Age"}, 'SELECT "Age" FROM t'),
        ("snowflake", "SELECT {{ f }} FROM t", {"f": "age"}, 'SELECT "AGE" FROM t'),
        ("mysql", "SELECT {{ f }} FROM t", {"f": "Age"}, "SELECT `Age` FROM t"),
        ("bigquery", "SELECT {{ f }} FROM t", {"f": "age"}, "SELECT `age` FROM t"),
        ("duckdb", "SELECT {{ f }} FROM t", {"f": "age"}, 'SELECT "age" FROM t'),
        ("postgres", "SELECT a FROM t WHERE d > DATE '{{ d }}'", {"d": "2024-01-01"}, "SELECT a FROM t WHERE d > DATE '2024-01-01'"),
        (
            "postgres",
            "SELECT a FROM t WHERE d > now() - INTERVAL '{{ n }} days'",
            {"n": 3},
            "SELECT a FROM t WHERE d > now() - INTERVAL '3 days'",
        ),
        ("postgres", "SELECT a FROM t WHERE d > '{{ d }}'::date", {"d": "2024-01-01"}, "SELECT a FROM t WHERE d > :p1 ::date"),
        ("postgres", "SELECT date_trunc('{{ u }}', d) FROM t", {"u": "month"}, "SELECT date_trunc('month', d) FROM t"),
        ("postgres", "SELECT a FROM t WHERE d > CAST('{{ d }}' AS date)", {"d": "x"}, "SELECT a FROM t WHERE d > CAST(:p1 AS date)"),
        ("postgres", "SELECT a FROM t FETCH FIRST {{ n }} ROWS ONLY", {"n": 3}, "SELECT a FROM t FETCH FIRST 3 ROWS ONLY"),
    ],
)
def test_each_database_has_its_own_way(dialect: str, text: str, params: dict[str, Any], expected: str, compiled: Any) -> None:
    assert compiled(text, dialect, **params).text == expected


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("postgres", "SELECT a FROM t WHERE d > DATE '{{ v }}'"),
        ("postgres", "SELECT INTERVAL '{{ v }}' AS i"),
        ("postgres", "SELECT date_trunc('{{ v }}', d) FROM t"),
        ("postgres", "SELECT E'{{ v }}' AS e"),
        ("postgres", "SELECT $${{ v }}$$ AS e"),
        ("postgres", "SELECT $q${{ v }}$q$ AS e"),
        ("postgres", "SELECT to_char(d, 'YYYY {{ v }}') FROM t"),
        ("postgres", "SELECT a->>'{{ v }}' FROM t"),
        ("postgres", "SELECT a FROM t WHERE a = ANY({{ v }})"),
        ("mysql", "SELECT a FROM t WHERE a = '\\'{{ v }}'"),
        ("mysql", 'SELECT a FROM t WHERE a = "{{ v }}"'),
        ("bigquery", "SELECT a FROM t WHERE a = r'{{ v }}'"),
        ("snowflake", "SELECT a FROM t WHERE a = '\\\\{{ v }}'"),
        ("mysql", "SELECT /*+ {{ v }} */ a FROM t"),
    ],
)
def test_places_of_other_databases_are_refused(dialect: str, text: str, compiled: Any) -> None:
    for value in ("x' OR '1'='1", "');--", "a$$b"):
        with pytest.raises(Refused):
            compiled(text, dialect, v=value)


def test_values_that_repeat_a_selected_expression_share_its_binds(compiled: Any) -> None:
    """Else PostgreSQL sees two different expressions, and refuses the grouping."""
    text = "SELECT b > {{ n }} AS over, count(*) AS c FROM t WHERE b <> {{ n }} GROUP BY b > {{ n }} ORDER BY b > {{ n }}"
    made = compiled(text, "postgres", n=3)
    assert made.text == "SELECT b > :p1 AS over, count(*) AS c FROM t WHERE b <> :p2 GROUP BY b > :p1 ORDER BY b > :p1"
    assert set(made.params) == {"p1", "p2"}
    assert prove(made.text, "postgres", made.params)


# --- sources and runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, store: Path) -> Places:
    (tmp_path / "recipes" / "sql").mkdir(parents=True)
    shutil.copy(store, tmp_path / "shop.db")
    for name, text in GUIDE.items():
        (tmp_path / "recipes" / "sql" / f"{name}.sql.j2").write_text(text)
    (tmp_path / "recipes" / "sql" / "plain.sql").write_text("SELECT a FROM t WHERE a = :a")
    return Places(
        project=tmp_path,
        folder=tmp_path / "recipes",
        adapters={"sql": SqlAdapter("sqlite:///shop.db", project=tmp_path)},
        sources={"spine": {"query": "recipes/sql/conditional_spine.sql.j2"}},
    )


def test_a_template_is_a_source(places: Places) -> None:
    """From the recipe's folder, from the project's, and by a name of the configuration."""
    loader = DefaultLoader("recipes/sql/user_behavior_spine.sql.j2", places=places, context_params=FIRST)
    assert loader.load()["target"].tolist() == [1, 0]
    assert loader.documents() == {"user_behavior_spine.sql.j2": GUIDE["user_behavior_spine"]}
    assert sum(batch.num_rows for batch in loader.batches(1)) == 2
    assert len(DefaultLoader("source://spine", places=places, context_params=SECOND).load()) == 1
    with pytest.raises(RecipeError, match=r"recipes/sql/multi_feature_spine\.sql\.j2:5: the template needs the parameter features"):
        DefaultLoader("sql/multi_feature_spine.sql.j2", places=places).load()
    plain = DefaultLoader("sql/plain.sql", places=places, context_params={"a": "x"})
    plain.load()
    assert plain.documents() == {"plain.sql": "SELECT a FROM t WHERE a = :a"}


def test_an_adapter_without_a_dialect_takes_no_template(places: Places) -> None:
    class Foreign:
        def read(self, query: str, params: object = None) -> None:
            raise AssertionError(query)

    foreign = Places(project=places.project, folder=places.folder, adapters={"sql": Foreign()})
    with pytest.raises(RecipeError, match="dialect"):
        foreign.resolve("sql/conditional_spine.sql.j2", SECOND)


# --- the commands --------------------------------------------------------------------------------------------------------


def test_a_recipe_trains_and_predicts_with_a_template(project: Path, command: Any) -> None:
    """Stored parameters are the defaults of the batch, given ones override; the artifact keeps the template as used."""
    params = {"smallest_radius": 10, "limit": 400, "features": ["mean_radius", "worst_area"]}
    trained = command("train", "--recipe-file", "recipes/tabular/breast_cancer_sql.yaml", "--context-params", json.dumps(params), "--json")
    assert trained.code == 0, trained
    folder = Path(trained.json["artifact"])
    assert (folder / "sql" / "breast_cancer.sql.j2").read_text() == (project / "recipes" / "sql" / "breast_cancer.sql.j2").read_text()
    assert artifact.verify(folder).about["parameters"] == params
    features = [
        column["name"] for column in json.loads((folder / "input_schema.json").read_text())["columns"] if column["role"] == "feature"
    ]
    assert features == ["mean_radius", "worst_area"]

    run = ("batch-inference", "--run-id", trained.json["run_id"], "--output")
    assert command(*run, "a.csv", "--json").json["rows"] == 400
    few = command(*run, "b.csv", "--context-params", '{"limit": 7}', "--json")
    assert few.json["rows"] == 7
    none = command(*run, "c.csv", "--context-params", '{"patients": ["P0001", "\' OR 1=1 --"], "smallest_radius": 0}', "--json")
    assert none.json["rows"] == 1
    assert "P0001" in (project / "c.csv").read_text()

    near = command(*run, "d.csv", "--context-params", '{"patient": ["P0001"]}', "--json")
    assert (near.code, near.json["error"]["slug"]) == (3, "unknown-parameter")
    assert "did you mean patients?" in near.err
    far = command(*run, "e.csv", "--context-params", '{"evaluation_date": "2024-01-07"}', "--json")
    assert far.code == 0
    assert "evaluation_date" in far.err
    assert not (project / "d.csv").exists()


@pytest.mark.parametrize(
    ("params", "code", "slug"),
    [
        ('{"limit": "10; DROP TABLE wine"}', 4, "sql-limit"),
        ('{"features": ["mean_radius", "(DROP)"]}', 4, "sql-identifier"),
        ('{"smalest_radius": 3}', 3, "unknown-parameter"),
        ('{"smallest_radius": "3 OR 1=1 DROP", "features": []}', 4, "sql-empty-list"),
        ('{"smallest_radius": 1e400}', 3, "sql-value"),
    ],
)
def test_parameters_that_do_not_fit_fail_in_one_line(params: str, code: int, slug: str, project: Path, command: Any) -> None:
    """No value in it, no artifact, the database as it was."""
    before = (project / "recipes" / "data" / "samples.sqlite").read_bytes()
    answer = command("train", "--recipe-file", "recipes/tabular/breast_cancer_sql.yaml", "--context-params", params, "--json")
    assert (answer.code, answer.json["error"]["slug"]) == (code, slug)
    assert "DROP" not in answer.out + answer.err
    assert len([line for line in answer.err.splitlines() if line.startswith("error[")]) == 1
    assert not list(project.rglob("manifest.json"))
    assert (project / "recipes" / "data" / "samples.sqlite").read_bytes() == before


def test_names_of_parameters_may_be_anything(compiled: Any, adapter: SqlAdapter) -> None:
    """Those that Python or Jinja use, too."""
    params = {"self": "x", "loop": 1, "range": 2, "p1": "y", "context": 3}
    made = compiled(
        "SELECT a FROM t WHERE a IN ({{ context }}, {{ p1 }}) OR b = {{ loop }}", **{k: v for k, v in params.items() if k != "self"}
    )
    assert len(rows(adapter, made)) == 2
