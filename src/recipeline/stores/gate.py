"""The gate: proves that a text is one SELECT that only reads, before a database sees it (sqlglot; besides
this, only `templates.splicing` asks the parser).

One of three fences, each of which was defeated alone; the others are the read-only session in `sql` and the binding
of values. What cannot be understood is refused. No message shows more of the text than names.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

from recipeline.errors import RecipeError, RecipelineError, Refused, did_you_mean

MAX_LENGTH = 1_000_000  # characters; longer texts take the parser minutes

_FORBIDDEN_MODULES = {"ddl", "dml", "properties", "constraints"}  # of sqlglot.expressions: whatever changes something
_FORBIDDEN = {
    "Analyze", "Block", "CaseStatement", "Columns", "ConditionalInsert", "Connect", "CurrentStatement", "DynamicIdentifier",
    "EndStatement", "FeaturesAtTime", "Generator", "Get", "Grant", "Hint", "Host", "IfBlock", "IndexTableHint", "Into", "Iterate",
    "Leave", "ListStage", "Lock", "LoopBlock", "MultitableInserts", "NetFunc", "NextValueFor", "OpenJSON", "Operator", "Parameter",
    "Predict", "PropertyEQ", "Put", "QueryOption", "ReadCSV", "ReadParquet", "RepeatBlock", "Return", "Revoke", "Secret",
    "SessionParameter", "StoredProcedure", "ToFile", "VectorSearch", "WhileBlock", "WithTableHint", "XMLTable",
}  # fmt: skip
_FORBIDDEN_NAME = re.compile(r"(AI|ML)[A-Z]\w*|Generate(Bool|Double|Embedding|Int|Table|Text)")
_TABLE_FUNCTIONS = {"Unnest", "GenerateSeries", "ExplodingGenerateSeries", "GenerateDateArray", "GenerateTimestampArray"}

_SYSTEM_TABLES = {
    "sqlite": re.compile(r"sqlite_.*|pragma_.*|dbstat|sqlite_dbpage|fsdir|zipfile|completion|bytecode|tables_used"),
    "postgres": re.compile(r"pg_.*"),
    "duckdb": re.compile(r"duckdb_.*|pragma_.*|sqlite_.*|pg_.*"),
}
_SYSTEM_SCHEMAS = {
    "account_usage", "information_schema", "mysql", "performance_schema", "pg_catalog", "pg_temp", "pg_toast", "snowflake", "sys",
}  # fmt: skip

_SQLITE = """
acos acosh asin asinh atan atanh atan2 ceiling char degrees format glob iif instr json json_array json_array_length json_group_array
json_group_object json_insert json_object json_patch json_quote json_remove json_replace json_set json_type json_valid julianday
likelihood likely like log10 log2 ltrim mod nullif pi power printf quote radians rtrim sign soundex strftime substr substring time total
trunc typeof unicode unixepoch unlikely
"""
_POSTGRES = """
age array_lower array_ndims array_positions array_replace array_upper btrim cardinality char_length clock_timestamp date_part div every
factorial gcd isfinite json_agg json_array_length json_build_array json_build_object json_extract_path json_extract_path_text
json_object_agg json_typeof jsonb_agg jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path jsonb_extract_path_text
jsonb_strip_nulls jsonb_typeof lcm ltrim make_date make_time make_timestamp make_timestamptz min_scale num_nonnulls num_nulls
octet_length quote_literal regexp_match regexp_matches regexp_split_to_array row_to_json rtrim scale sha256 statement_timestamp
string_to_array strpos to_date to_json to_jsonb to_number to_timestamp transaction_timestamp trim_scale
"""
_MYSQL = """
any_value bin bit_count char_length conv crc32 field find_in_set format from_days from_unixtime inet_aton inet_ntoa interval
json_contains json_length json_unquote lcase makedate maketime mid oct period_add period_diff sec_to_time std strcmp time_to_sec
timestampdiff to_days truncate ucase unix_timestamp weekday yearweek
"""
FUNCTIONS = {"sqlite": frozenset(_SQLITE.split()), "postgres": frozenset(_POSTGRES.split()), "mysql": frozenset(_MYSQL.split())}
"""Functions that sqlglot knows as classes pass; others by name, where they compute from their arguments alone."""

DIALECTS = {"sqlite": "sqlite", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql", "duckdb": "duckdb",
            "bigquery": "bigquery", "snowflake": "snowflake"}  # fmt: skip
"""SQLAlchemy's name of a database -> sqlglot's."""


def prove(sql: str, dialect: str, params: Iterable[str] = (), *, binds: int | None = None) -> str:
    """The same statement without comments and semicolon, once it is proved to be one SELECT that only reads.

    dialect  sqlglot's name; params: names that `:name` in the text may have
    binds    how many there must be, where that is known

    Raises Refused (4) for anything else, RecipeError (3) for a `:name` that no parameter has.
    """
    if len(sql) > MAX_LENGTH:
        raise _refuse(f"is longer than {MAX_LENGTH:,} characters", slug="sql-length")
    if "\0" in sql:
        raise _refuse("holds a NUL character", slug="sql-syntax")
    tokens, statements = parse(sql, dialect)
    statements = [statement for statement in statements if statement is not None and type(statement).__name__ != "Semicolon"]
    if len(statements) != 1:
        what = "holds no statement" if not statements else f"holds {len(statements)} statements"
        raise _refuse(what, hint="write exactly one SELECT", slug="sql-statements")
    try:
        bound = _check(statements[0], dialect, set(params))
    except RecipelineError:
        raise
    except Exception:  # noqa: BLE001  # a tree that the check does not understand proves nothing
        raise _refuse("cannot be understood", slug="sql-syntax") from None
    text = _spliced(sql, tokens)
    if bound != _colons(sql, tokens, set(params)) or binds not in (None, bound):
        raise _refuse("has parameters in places that cannot be told", slug="sql-parameter")
    return text


def placeholders(sql: str, dialect: str | None) -> list[str]:
    """Names of the parameters that `:name` in a text asks for, in order. Raises Refused where it is not understood."""
    from sqlglot import expressions as exp

    _, statements = parse(sql, dialect)
    found = [node.name for tree in statements if tree is not None for node in tree.find_all(exp.Placeholder)]
    return list(dict.fromkeys(name for name in found if name and name != "?"))


def parse_select_columns(sql: str, dialect: str | None = None) -> list[str]:
    """Names of the columns that a SELECT gives, in order; `*` (or `t.*`) stands where the text does not name them.

    >>> parse_select_columns("SELECT id, lower(name) AS name, t.* FROM t")
    ['id', 'name', 't.*']

    dialect  sqlglot's name of the database, where its SQL differs; a query of several parts (UNION) has the names
             of the first. Raises Refused where the text is no SELECT, or a column has no name: give it one with AS.
    """
    from sqlglot import expressions as exp

    _, statements = parse(sql, dialect)
    trees = [statement for statement in statements if statement is not None and type(statement).__name__ != "Semicolon"]
    if len(trees) != 1:
        raise _refuse(f"holds {len(trees)} statements", hint="write exactly one SELECT", slug="sql-statements")
    tree: Any = trees[0]
    while isinstance(tree, (exp.Subquery, exp.SetOperation)):
        tree = tree.this
    if not isinstance(tree, exp.Select):
        raise _refuse(f"is no SELECT but {_called(tree)}", slug="sql-not-select")
    names = []
    for position, item in enumerate(tree.expressions, 1):
        star = isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star))
        if star:
            table = item.args.get("table") if isinstance(item, exp.Column) else None
            names.append(f"{table.name}.*" if table is not None else "*")
        elif item.alias_or_name and isinstance(item, (exp.Alias, exp.Column, exp.Dot)):
            names.append(str(item.alias_or_name))
        else:
            raise _refuse(f"gives column {position} no name", hint="name it with AS", slug="sql-unnamed-column")
    return names


def _refuse(what: str, *, hint: str = "", slug: str = "sql-refused") -> Refused:
    return Refused(f"the query {what}", hint=hint, slug=slug)


def parse(sql: str, dialect: str | None) -> tuple[Sequence[Any], list[Any]]:
    """The tokens and the statements of a text. Raises Refused where it is not understood."""
    import sqlglot

    # It warns with the whole text of what it does not know.
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)
    try:
        return sqlglot.tokenize(sql, read=dialect), list(sqlglot.parse(sql, read=dialect))
    except Exception as error:  # noqa: BLE001  # ParseError, TokenError, and what hostile texts make the parser raise
        first = (getattr(error, "errors", None) or [{}])[0]
        where = f" (line {first['line']}, column {first['col']})" if first.get("line") else ""
        raise _refuse(f"cannot be understood as one SELECT{where}", slug="sql-syntax") from None


def _called(node: Any) -> str:
    """How messages call a statement: its own first word."""
    from sqlglot import expressions as exp

    if isinstance(node, exp.Command):
        return str(node.this).upper()
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).upper()


def _check(statement: Any, dialect: str, params: set[str]) -> int:
    """Refused, or the number of parameters that the statement binds."""
    from sqlglot import expressions as exp

    top = statement
    while isinstance(top, exp.Subquery):
        top = top.this
    if not isinstance(top, (exp.Select, exp.SetOperation)):
        raise _refuse(f"is no SELECT but {_called(top)}", hint="only rows that a SELECT reads are taken", slug="sql-not-select")
    bound = 0
    for node in statement.walk():
        name = type(node).__name__
        if type(node).__module__.rpartition(".")[2] in _FORBIDDEN_MODULES or name in _FORBIDDEN or _FORBIDDEN_NAME.fullmatch(name):
            raise _refuse(f"holds {_called(node)}", hint="only reading is allowed", slug="sql-refused")
        if isinstance(node, exp.CTE) and not isinstance(_inner(node), (exp.Select, exp.SetOperation, exp.Values)):
            raise _refuse(f"holds {_called(_inner(node))} in WITH", hint="only reading is allowed", slug="sql-refused")
        if isinstance(node, exp.Placeholder):
            if node.name not in params:
                if not node.name or node.name == "?":
                    raise _refuse("uses a parameter without a name", hint="write :name", slug="sql-parameter")
                hint = did_you_mean(node.name, params) if params else f"give {node.name} in --context-params"
                raise RecipeError(f"the query uses :{node.name}, and no parameter has that name", hint=hint, slug="missing-parameter")
            bound += 1
        _check_function(node, dialect)
        _check_table(node, dialect)
    return bound


def _inner(node: Any) -> Any:
    from sqlglot import expressions as exp

    inner = node.this
    while isinstance(inner, exp.Subquery):
        inner = inner.this
    return inner


def _check_function(node: Any, dialect: str) -> None:
    from sqlglot import expressions as exp

    if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Func):
        hint = "call functions without a schema"
        raise _refuse(f"calls {node.expression.name or 'a function'} of a schema", hint=hint, slug="sql-function")
    if isinstance(node, (exp.Anonymous, exp.AnonymousAggFunc, exp.CombinedAggFunc, exp.ParameterizedAgg, exp.CombinedParameterizedAgg)):
        name = str(node.this)
        known = FUNCTIONS.get(dialect, frozenset())
        if name.lower() not in known:
            raise _refuse(f"calls {name}, which is not known to be harmless", hint=did_you_mean(name, known), slug="sql-function")
    if isinstance(node, exp.Identifier) and not node.args.get("quoted") and node.name.startswith("$"):
        raise _refuse("uses a parameter of another form", hint="write :name", slug="sql-parameter")
    if isinstance(node, exp.Column) and node.args.get("table") is not None and node.name.lower() in ("nextval", "currval"):
        raise _refuse("uses a sequence", slug="sql-refused")


def _check_table(node: Any, dialect: str) -> None:
    from sqlglot import expressions as exp

    if isinstance(node, exp.Lateral) and isinstance(node.this, exp.Func):
        _check_table_function(node.this)
    if not isinstance(node, exp.Table):
        return
    if isinstance(node.this, exp.Func):
        _check_table_function(node.this)
        return
    *schemas, name = [word for part in node.parts for word in part.name.lower().split(".")]  # BigQuery quotes several parts as one
    system = _SYSTEM_TABLES.get(dialect)
    system_schema = _SYSTEM_SCHEMAS.intersection(schemas) or any(part.startswith("pg_") for part in schemas)
    if system_schema or (system is not None and system.fullmatch(name)):
        raise _refuse(f"reads the system table {node.name}", hint="only tables of data are read", slug="sql-system-table")
    if dialect == "duckdb" and re.search(r"[./\\*:]", node.name):
        raise _refuse("reads a file", hint="name it as the source_uri", slug="sql-refused")


def _check_table_function(function: Any) -> None:
    if type(function).__name__ not in _TABLE_FUNCTIONS:
        name = function.name if type(function).__name__ == "Anonymous" else function.sql_name()
        raise _refuse(f"reads rows from the function {name}", hint="only unnest and generate_series are known here", slug="sql-function")


def _spliced(sql: str, tokens: Sequence[Any]) -> str:
    """The author's text, token by token; what stands between them becomes a blank or a line end: comments vanish."""
    pieces: list[str] = []
    end = 0
    for token in tokens:
        if token.token_type.name == "SEMICOLON":
            continue
        gap = sql[end : token.start]
        if pieces and gap:
            pieces.append("\n" if "\n" in gap else " ")
        pieces.append(sql[token.start : token.end + 1])
        end = token.end + 1
    return "".join(pieces)


def broken_at(sql: str, dialect: str) -> str:
    """What stands where the parser gave up, and what stands before it; empty where it does not say."""
    import sqlglot
    import sqlglot.errors

    try:
        sqlglot.parse(sql, read=dialect)
    except sqlglot.errors.ParseError as error:
        first = (error.errors or [{}])[0]
        return str(first.get("start_context") or "")[-100:] + str(first.get("highlight") or "")
    except Exception:  # noqa: BLE001  # as above
        return ""
    return ""


def with_lists(sql: str, dialect: str, names: Iterable[str], member: str) -> str:
    """A proved text in which `IN (:name)` of these names has `member` (with `{}` for the name) between its brackets.

    Raises RecipeError (3) where one of them stands anywhere else: only IN takes a list.
    """
    wanted = set(names)
    tokens, _ = parse(sql, dialect)
    words = [sql[token.start : token.end + 1] for token in tokens]
    pieces: list[str] = []
    end = 0
    for number, token in enumerate(tokens):
        if words[number] not in wanted or number == 0 or words[number - 1] != ":" or tokens[number - 1].end + 1 != token.start:
            continue
        if [word.upper() for word in words[max(0, number - 3) : number - 1]] != ["IN", "("] or words[number + 1 : number + 2] != [")"]:
            raise RecipeError(f":{words[number]} is a list", hint=f"write IN (:{words[number]})", slug="sql-value")
        pieces += [sql[end : tokens[number - 1].start], member.format(words[number])]
        end = token.end + 1
    return "".join([*pieces, sql[end:]])


def _colons(sql: str, tokens: Sequence[Any], params: set[str]) -> int:
    """How many `:name` of the parameters stand in the text as the driver would see them."""
    return sum(
        one.token_type.name == "COLON" and one.end + 1 == two.start and sql[two.start : two.end + 1] in params
        for one, two in itertools.pairwise(tokens)
    )
