"""The statement with its tokens, parsed: what each value becomes is decided by where its token stands in the tree.

The author's text is kept token by token, only comments vanish. A place that is not listed here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from recipeline.errors import Refused
from recipeline.stores.gate import broken_at, parse
from recipeline.stores.templates.rendering import Rendered, Site
from recipeline.stores.templates.values import Identifier, checked_name, kind, reads_as_number

LIST_FROM = 1_000  # items from which an IN list of SQLite is bound as one value
MAX_BINDS = {"sqlite": 32_766, "postgres": 65_535, "mysql": 65_535, "bigquery": 10_000}

_BACKTICKS = {"sqlite", "mysql", "bigquery"}  # SQLite takes an unknown "name" for a text, and never an unknown `name`
_ESCAPES = {"mysql", "bigquery", "snowflake"}  # where a backslash in a text means something
_TRAILING_COMMAS = {"bigquery", "duckdb", "snowflake"}  # which take a comma before FROM
_TYPED = re.compile(r"[\w :.+/-]{1,64}", re.ASCII)

# Roles of a place.
EQUAL, MEMBER, WHOLE_IN, ORDERED, EXPRESSION, ITEM, KEY, NAME, TABLE, LIMIT, CONDITION, NOWHERE = (
    "equal", "member", "whole in", "ordered", "expression", "item", "key", "name", "table", "limit", "condition", "nowhere",
)  # fmt: skip


_EMPTY_LISTS = {"sqlite"}  # which know `IN ()`: nothing is in it
_FALSE = "(1 = 0)"
_LONGEST_OPERAND = 200  # tokens on the left of IN


def splice(rendered: Rendered, dialect: str) -> tuple[str, dict[str, Any], int]:
    """The statement with `:name` for what is bound, the values by name, and how many places they have."""
    return _Splicer(rendered, dialect).done()


class _Splicer:
    def __init__(self, rendered: Rendered, dialect: str) -> None:
        self.rendered = rendered = rendered if dialect in _EMPTY_LISTS else _with_empty_lists(rendered, dialect)
        self.dialect = dialect
        self.text = rendered.text
        try:
            self.tokens, statements = parse(self.text, dialect)
        except Refused:
            last = [*rendered.pattern.finditer(broken_at(self.text, dialect)[-60:])][-1:]
            if last and last[0][0] in rendered.sites:
                raise _nowhere(rendered.sites[last[0][0]]) from None
            raise
        self.trees = [tree for tree in statements if tree is not None]
        self.bound: dict[str, Any] = {}
        self.number = 0
        self.pieces: dict[int, str] = {}  # index of a token -> what stands there instead; "" drops it
        self.nodes = self._positions()

    def done(self) -> tuple[str, dict[str, Any], int]:
        spans = [self.text[token.start : token.end + 1] for token in self.tokens]
        self._check_commas(spans)
        self.index = {token.start: number for number, token in enumerate(self.tokens)}
        self._empty_lists(spans)
        self._long_lists(spans)
        for number, raw in enumerate(spans):
            if number not in self.pieces and self.nonce_in(raw):
                self.pieces[number] = self._decide(number, raw)
        limit = MAX_BINDS.get(self.dialect)
        if limit is not None and len(self.bound) > limit:
            raise Refused(f"the query binds more than {limit:,} values", hint="use a list in IN ({{ xs }})", slug="sql-too-many")
        self._same_keys()
        places = sum(len(re.findall(r":p\d+", piece)) for piece in self.pieces.values())
        return self._joined(spans), self.bound, places

    def nonce_in(self, raw: str) -> bool:
        return self.rendered.pattern.search(raw) is not None

    def _positions(self) -> dict[int, list[Any]]:
        """Names and texts of the tree by where they begin."""
        from sqlglot import expressions as exp

        found: dict[int, list[Any]] = {}
        for tree in self.trees:
            for node in tree.walk():
                if isinstance(node, exp.Placeholder):
                    raise Refused("a parameter is written as :name", hint="write {{ name }} in a template", slug="sql-parameter")
                if isinstance(node, (exp.Identifier, exp.Literal)) and "start" in node.meta:
                    found.setdefault(node.meta["start"], []).append(node)
        return found

    # --- one token of the statement ---

    def _decide(self, number: int, raw: str) -> str:
        pattern = self.rendered.pattern
        sites = [self.rendered.sites.get(found) for found in pattern.findall(raw)]
        if None in sites:
            raise Refused("a value stands in a place that cannot be told", slug="sql-position")
        known = [site for site in sites if site is not None]
        found = self.nodes.get(self.tokens[number].start, [])
        if raw.startswith("'") and raw.endswith("'") and len(raw) >= 2:
            return self._in_text(number, raw, known, found)
        from sqlglot import expressions as exp

        if not found or not all(isinstance(node, exp.Identifier) for node in found):
            raise _nowhere(known[0])
        roles = {self._role(node, number) for node in found}
        if len(roles) != 1:
            raise _nowhere(known[0])
        (role,) = roles
        if pattern.fullmatch(raw) and len(known) == 1:
            return self._whole(role, known[0], found[0])
        return self._glued(role, raw, known)

    def _in_text(self, number: int, raw: str, sites: list[Site], found: list[Any]) -> str:
        """In `'…'`: one bind for the whole text; inline where the grammar wants a literal."""
        from sqlglot import expressions as exp

        inner = raw[1:-1]
        parts = [self._as_text(site) for site in sites]
        constants = self.rendered.pattern.split(inner)
        if self.dialect in _ESCAPES and any("\\" in constant for constant in constants):
            raise Refused("a backslash stands beside a value", hint="bind the whole text", slug="sql-position", where=sites[0].where)
        whole = "".join(a + b for a, b in zip([piece.replace("''", "'") for piece in constants], [*parts, ""], strict=True))
        if not found:  # a unit: sqlglot makes a keyword of it
            if any(self._is_unit(node, inner) for tree in self.trees for node in tree.find_all(exp.Var, exp.Literal)):
                return self._typed(whole, sites[0])
            raise _nowhere(sites[0])
        for node in found:
            if not isinstance(node, exp.Literal) or not node.is_string:
                raise _nowhere(sites[0])
            parent = node.parent
            if isinstance(parent, exp.Interval) or node.arg_key == "unit" or (isinstance(parent, exp.Cast) and self._typed_before(number)):
                return self._typed(whole, sites[0])
            if isinstance(parent, (exp.Limit, exp.Offset, exp.Fetch, exp.JSONExtract, exp.JSONExtractScalar, exp.Collate)) and (
                node.arg_key != "this" or not isinstance(parent, (exp.JSONExtract, exp.JSONExtractScalar, exp.Collate))
            ):
                raise _nowhere(sites[0])
        return self._bind(whole)

    def _as_text(self, site: Site) -> str:
        what = kind(site.value)
        if what not in ("text", "number"):
            raise Refused(f"a text or a number belongs between quotes, got {what}", slug="sql-value", where=site.where)
        return str(site.value)

    def _is_unit(self, node: Any, inner: str) -> bool:
        return node.arg_key == "unit" and str(node.this).upper() == inner.upper()

    def _typed_before(self, number: int) -> bool:
        """`DATE '…'`, not `CAST('…' AS date)` and not `'…'::date`."""
        return number > 0 and self.tokens[number - 1].token_type.name not in ("L_PAREN", "COMMA") and not self._next_is(number, "DCOLON")

    def _next_is(self, number: int, name: str) -> bool:
        return number + 1 < len(self.tokens) and bool(self.tokens[number + 1].token_type.name == name)

    def _typed(self, whole: str, site: Site) -> str:
        if not _TYPED.fullmatch(whole):
            raise Refused("not a plain date, time or interval", hint="letters, digits and :.+/- only", slug="sql-value", where=site.where)
        return f"'{whole}'"

    # --- a value that is a whole token ---

    def _whole(self, role: str, site: Site, node: Any) -> str:
        value, what = site.value, kind(site.value)
        if site.joined and role is not NOWHERE:
            raise Refused("join makes one text of a list", hint="write {{ xs }}; a list expands", slug="sql-join", where=site.where)
        if what == "name" and role in (EQUAL, MEMBER, ORDERED, EXPRESSION, ITEM, KEY, CONDITION):
            return self._quoted(checked_name(value, site.where))
        match role:
            case "limit":
                if what != "number" or not isinstance(value, int) or value < 0:
                    raise Refused(f"needs a whole number ≥ 0, got {_shown(value)}", slug="sql-limit", where=site.where)
                return str(int(value))
            case "name" | "table":
                return self._named(role, site, node)
            case "item" | "key":
                return self._item(role, site)
            case "whole in" | "member":
                return self._member(role, site, node)
            case "condition":
                if what != "true or false":
                    raise Refused(f"a condition needs true or false, got {what}", slug="sql-value", where=site.where)
                return self._bind(value)
            case "equal" | "ordered" | "expression":
                return self._compared(role, site)
        raise _nowhere(site)

    def _compared(self, role: str, site: Site) -> str:
        value, what = site.value, kind(site.value)
        if what == "list":
            raise Refused("a list stands where one value is compared", hint="write IN ({{ xs }})", slug="sql-value", where=site.where)
        if role is EXPRESSION:
            if what == "text":
                hint = "write '{{ x }}' (value) or {{ x | identifier }} (name)"
                raise Refused("value or name?", hint=hint, slug="sql-ambiguous", where=site.where)
            return "NULL" if what == "null" else self._bind(value)
        if what == "null":
            raise Refused("null is never equal", hint="write … IS NULL", slug="sql-value", where=site.where)
        if role is ORDERED and what == "text" and reads_as_number(value):
            hint = "give it as a number, or write '{{ x }}'"
            raise Refused("a text that reads as a number is compared", hint=hint, slug="sql-value", where=site.where)
        return self._bind(value)

    def _member(self, role: str, site: Site, node: Any) -> str:
        if kind(site.value) != "list":
            if role is WHOLE_IN:
                raise Refused(f"IN needs a list, got {kind(site.value)}", slug="sql-value", where=site.where)
            return self._compared(EQUAL, site)
        if any(item is None for item in site.value):
            raise Refused("null is never equal", hint="leave it out; write … OR x IS NULL", slug="sql-value", where=site.where)
        if any(isinstance(item, Identifier) for item in site.value):
            raise Refused("names stand in a list of values", hint="write {{ xs }}", slug="sql-value", where=site.where)
        alone = role is WHOLE_IN or len(node.parent.parent.expressions) == 1
        if not site.value and not (alone and self.dialect in _EMPTY_LISTS):
            hint = "leave the condition out with {% if %}"
            raise Refused("a list among the members of IN is empty", hint=hint, slug="sql-empty-list", where=site.where)
        if self._as_one(site.value) and alone:
            members = self._bind(list(site.value))
        else:
            members = ", ".join(map(self._bind, site.value))
        return f"({members})" if role is WHOLE_IN else members

    def _item(self, role: str, site: Site) -> str:
        value, what = site.value, kind(site.value)
        if what == "list":
            if not value:
                raise Refused("a list of names is empty", hint="leave it out with {% if %}", slug="sql-empty-list", where=site.where)
            if not all(isinstance(item, str) for item in value):
                raise Refused("a list of names holds something else", slug="sql-identifier", where=site.where)
            return ", ".join(self._quoted(self._folded(checked_name(item, site.where))) for item in value)
        if what == "text":
            return self._quoted(self._folded(checked_name(value, site.where)))
        if role is KEY:
            if what != "number" or not isinstance(value, int) or not 1 <= value <= 999:
                raise Refused(f"needs a name, or the number of a column, got {what}", slug="sql-value", where=site.where)
            return str(int(value))
        return "NULL" if what == "null" else self._bind(value)

    def _named(self, role: str, site: Site, node: Any) -> str:
        if kind(site.value) not in ("text", "name"):
            raise Refused(f"needs a name, got {kind(site.value)}", slug="sql-identifier", where=site.where)
        alone = role is TABLE and not node.parent.args.get("db")
        parts = str(site.value).split(".") if alone else [str(site.value)]
        if len(parts) > 3:
            raise Refused("not a plain column or table name", hint="three parts at most", slug="sql-identifier", where=site.where)
        names = [checked_name(part, site.where) for part in parts]
        return ".".join(self._quoted(name if kind(site.value) == "name" else self._folded(name)) for name in names)

    def _glued(self, role: str, raw: str, sites: list[Site]) -> str:
        """`avg_{{ f }}`, or a quoted name: the whole is a name."""
        if role in (NOWHERE, LIMIT, WHOLE_IN):
            raise _nowhere(sites[0])
        quoted = raw[0] in '"`['
        if quoted and (len(raw) < 2 or raw[-1] not in '"`]' or re.search(r'["`\[\]]', raw[1:-1])):
            raise Refused("not a plain column or table name", slug="sql-identifier", where=sites[0].where)
        for site in sites:
            if kind(site.value) not in ("text", "name") and (kind(site.value) != "number" or not isinstance(site.value, int)):
                raise Refused(f"needs a part of a name, got {kind(site.value)}", slug="sql-identifier", where=sites[0].where)
        values = iter(sites)
        whole = self.rendered.pattern.sub(lambda _: str(next(values).value), raw[1:-1] if quoted else raw)
        name = checked_name(whole, sites[0].where)
        return self._quoted(name if quoted else self._folded(name))

    # --- the tree ---

    def _role(self, node: Any, number: int) -> str:
        """The role of a name in the tree."""
        from sqlglot import expressions as exp

        parent, key = node.parent, node.arg_key
        after_as = number > 0 and self.tokens[number - 1].token_type.name == "ALIAS"
        if isinstance(parent, exp.Alias) and key == "alias":
            return NAME if after_as else NOWHERE
        if isinstance(parent, exp.TableAlias) and key == "this":
            return NAME if after_as and not isinstance(parent.parent, exp.CTE) else NOWHERE
        if isinstance(parent, exp.Table) and key in ("this", "db", "catalog"):
            return TABLE if key == "this" else NAME
        if isinstance(parent, exp.Join) and key == "using":
            return NAME
        if isinstance(parent, exp.Fetch) and key == "count":
            return LIMIT
        if not isinstance(parent, exp.Column):
            return NOWHERE
        if key != "this" or parent.args.get("table") is not None:
            return NAME
        place: Any = parent
        inside = False
        while isinstance(place.parent, exp.Paren):
            place, inside = place.parent, True
        role = _role_of_expression(place.parent, place.arg_key)
        return EXPRESSION if inside and role in (ITEM, KEY) else NOWHERE if inside and role in (LIMIT, WHOLE_IN) else role

    # --- lists ---

    def _empty_lists(self, spans: Sequence[str]) -> None:
        """`a IN ()` where the database has no empty list: nothing is in it, whatever `a` is, so the condition is false."""
        from sqlglot import expressions as exp

        if self.dialect in _EMPTY_LISTS:
            return
        for number, raw in enumerate(spans):
            site = self.rendered.sites.get(raw)
            if site is None or site.value != [] or number in self.pieces:
                continue
            (node, *others) = self.nodes.get(self.tokens[number].start, [None])
            column = node.parent if node is not None and not others else None
            found = column.parent if isinstance(column, exp.Column) else node.parent if node is not None else None
            if not isinstance(found, exp.In) or len(found.expressions) > 1:
                continue
            enclosed = number > 0 and spans[number - 1] == "(" and spans[number + 1 : number + 2] == [")"]
            self._never(found, number - 2 if enclosed else number - 1, number + 1 if enclosed else number, spans, site)

    def _never(self, found: Any, word: int, last: int, spans: Sequence[str], site: Site) -> None:
        """The tokens of a condition `a [NOT] IN (…)`, whose IN stands at `word`, replaced by one that is false (or true).

        Where `a` begins is not guessed: it is where the rest of the statement stays the same when the parser reads it again.
        """
        import sqlglot

        negated = word > 0 and spans[word - 1].upper() == "NOT"
        written = f"NOT {_FALSE}" if negated else _FALSE
        top = next(tree for tree in self.trees if tree is found.root())
        mark = found.sql(dialect=self.dialect)
        wanted = top.copy()
        (place,) = [one for one in wanted.find_all(type(found)) if one.sql(dialect=self.dialect) == mark]
        place.replace(sqlglot.parse_one(_FALSE, read=self.dialect))
        end = self.tokens[last].end + 1
        for first in range(word - 1 - negated, max(-1, word - _LONGEST_OPERAND), -1):
            text = f"{self.text[: self.tokens[first].start]} {written} {self.text[end:]}"
            try:
                _, statements = parse(text, self.dialect)
            except Refused:
                continue
            if [tree for tree in statements if tree is not None] == [wanted if tree is top else tree for tree in self.trees]:
                self.pieces[first] = written
                self.pieces.update(dict.fromkeys(range(first + 1, last + 1), ""))
                return
        hint = "leave the condition out with {% if %}"
        raise Refused("an IN list is empty, and this database does not take that", hint=hint, slug="sql-empty-list", where=site.where)

    def _as_one(self, values: list[Any]) -> bool:
        """Whether SQLite gets the list as one value. Fractions stay binds: JSON need not keep their last bit."""
        return (
            self.dialect == "sqlite"
            and len(values) > LIST_FROM
            and not any(isinstance(value, float) or value == -(2**63) for value in values)
        )

    def _long_lists(self, spans: Sequence[str]) -> None:
        """A loop that printed many members of one IN: the same as the list."""
        from sqlglot import expressions as exp

        if self.dialect != "sqlite" or len(self.rendered.sites) <= LIST_FROM:
            return
        for tree in self.trees:
            for node in tree.find_all(exp.In):
                if len(node.expressions) > LIST_FROM:
                    self._long_list(node.expressions, spans)

    def _long_list(self, members: list[Any], spans: Sequence[str]) -> None:
        from sqlglot import expressions as exp

        numbers, values = [], []
        for member in members:
            leaf = member.this if isinstance(member, exp.Column) and member.args.get("table") is None else member
            number = self.index.get(getattr(leaf, "meta", {}).get("start", -1))
            if number is None:
                return
            raw = spans[number]
            quoted = isinstance(leaf, exp.Literal) and leaf.is_string and raw.startswith("'")
            token = raw[1:-1] if quoted else raw
            site = self.rendered.sites.get(token)
            if site is None or kind(site.value) not in ("text", "number"):
                return
            values.append(str(site.value) if quoted else site.value)
            numbers.append(number)
        first, last = numbers[0], numbers[-1]
        alone = last - first == 2 * (len(numbers) - 1) and all(spans[between] == "," for between in range(first + 1, last, 2))
        if not alone or not self._as_one(values):
            return
        self.pieces[first] = self._bind(values)
        self.pieces.update(dict.fromkeys(range(first + 1, last + 1), ""))

    def _check_commas(self, spans: Sequence[str]) -> None:
        """sqlglot overlooks a comma before FROM or a bracket, which an empty loop leaves behind; databases do not."""
        for this, following in zip(spans, [*spans[1:], ""], strict=True):
            if self.dialect in _TRAILING_COMMAS:
                break
            empty = following.upper() in ("FROM", "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "UNION", ")", ",", "", ";")
            if this == "," and empty:
                hint = "the list of a loop is empty? leave the comma out with {% if %}"
                raise Refused("nothing stands behind a comma", hint=hint, slug="sql-empty-list")
            if this == "(" and following == "," and self.rendered.sites:
                raise Refused("nothing stands before a comma", slug="sql-empty-list")

    # --- the result ---

    def _bind(self, value: Any) -> str:
        self.number += 1
        name = f"p{self.number}"
        self.bound[name] = value
        return f":{name}"

    def _folded(self, name: str) -> str:
        if self.dialect == "postgres":
            return re.sub("[A-Z]+", lambda found: found[0].lower(), name)
        if self.dialect == "snowflake":
            return re.sub("[a-z]+", lambda found: found[0].upper(), name)
        return name

    def _quoted(self, name: str) -> str:
        return f"`{name}`" if self.dialect in _BACKTICKS else f'"{name}"'

    def _same_keys(self) -> None:
        """A GROUP BY or ORDER BY item that repeats a SELECT item has its binds: else the database sees two values."""
        from sqlglot import expressions as exp

        for tree in self.trees:
            for select in tree.find_all(exp.Select):
                items = [item.unalias() for item in select.expressions]
                clauses = [select.args.get("group"), select.args.get("order")]
                keys = [key.this if isinstance(key, exp.Ordered) else key for clause in clauses if clause for key in clause.expressions]
                for key in keys:
                    for item in items:
                        self._same(key, item)

    def _same(self, key: Any, item: Any) -> None:
        mine, theirs = self._binds_in(key), self._binds_in(item)
        if not mine or len(mine) != len(theirs) or self._with_values(key) != self._with_values(item):
            return
        for here, there in zip(mine, theirs, strict=True):
            name = self.pieces[here].strip(":")
            if name in self.bound and self.pieces[there] != self.pieces[here]:
                del self.bound[name]
                self.pieces[here] = self.pieces[there]

    def _binds_in(self, node: Any) -> list[int]:
        starts = sorted({leaf.meta["start"] for leaf in node.walk() if "start" in leaf.meta})
        numbers = [self.index[start] for start in starts if start in self.index]
        return [number for number in numbers if self.pieces.get(number, "").startswith(":p")]

    def _with_values(self, node: Any) -> str:
        sites = self.rendered.sites
        return self.rendered.pattern.sub(lambda found: repr(sites[found[0]].value), node.sql(dialect=self.dialect))

    def _joined(self, spans: Sequence[str]) -> str:
        pieces: list[str] = []
        end = 0
        for number, (token, raw) in enumerate(zip(self.tokens, spans, strict=True)):
            piece = self.pieces.get(number, raw)
            if not piece and number in self.pieces and raw != "":
                end = token.end + 1
                continue
            gap = self.text[end : token.start]
            blank = "\n" if "\n" in gap else " "
            touching = number in self.pieces or number - 1 in self.pieces
            before = pieces[-1][-1:] if pieces else ""
            if pieces and (gap or (touching and re.match(r"[\w:.'\"`$@?]", piece[:1]) and re.match(r"[\w:'\"`$@?]", before))):
                pieces.append(blank)
            pieces.append(piece)
            end = token.end + 1
        return "".join(pieces)


def _with_empty_lists(rendered: Rendered, dialect: str) -> Rendered:
    """`IN ()`, which an empty loop leaves behind, is an empty list as `IN ({{ xs }})` is one."""
    import sqlglot

    while True:
        try:
            tokens = sqlglot.tokenize(rendered.text, read=dialect)
        except Exception:  # noqa: BLE001  # hostile texts make the tokenizer raise anything; `parse` says so
            return rendered
        spans = [rendered.text[token.start : token.end + 1].upper() for token in tokens]
        found = next((at for at in range(len(spans) - 2) if spans[at : at + 3] == ["IN", "(", ")"]), None)
        if found is None:
            return rendered
        rendered = rendered.with_site(tokens[found + 1].end + 1, tokens[found + 2].start, Site([], "", joined=False))


def _role_of_expression(parent: Any, key: str) -> str:  # noqa: C901 - the table of places, one line each
    from sqlglot import expressions as exp

    arithmetic = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.DPipe, exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor)
    match parent:
        case exp.EQ() | exp.NEQ() | exp.Like() | exp.ILike() | exp.Glob() | exp.RegexpLike():
            return EQUAL if key == "expression" else EXPRESSION
        case exp.GT() | exp.GTE() | exp.LT() | exp.LTE():
            return ORDERED if key == "expression" else EXPRESSION
        case exp.Between():
            return ORDERED if key in ("low", "high") else EXPRESSION
        case exp.In():
            return {"expressions": MEMBER, "field": WHOLE_IN, "this": EXPRESSION}.get(key, NOWHERE)
        case exp.Tuple():
            if isinstance(parent.parent, exp.In) and parent.arg_key == "expressions":
                return EQUAL
            return EXPRESSION if isinstance(parent.parent, exp.Values) else NOWHERE
        case exp.And() | exp.Or() | exp.Not() | exp.Where() | exp.Having():
            return CONDITION
        case exp.Join():
            return CONDITION if key == "on" else NOWHERE
        case exp.If():
            if key != "this":
                return EXPRESSION
            return EQUAL if isinstance(parent.parent, exp.Case) and parent.parent.this is not None else CONDITION
        case exp.Case():
            return EXPRESSION
        case exp.Select():
            return ITEM if key == "expressions" else NOWHERE
        case exp.Alias():
            return EXPRESSION if key == "this" and isinstance(parent.parent, exp.Select) else NOWHERE
        case exp.Group():
            return KEY if key == "expressions" else NOWHERE
        case exp.Ordered():
            return KEY if key == "this" else NOWHERE
        case exp.Window():
            return KEY if key == "partition_by" else NOWHERE
        case exp.Limit() | exp.Offset() | exp.Fetch():
            return LIMIT
        case exp.Cast():
            return EXPRESSION if key == "this" else NOWHERE
        case exp.Any() | exp.All() | exp.Exists() | exp.JSONExtract() | exp.JSONExtractScalar() | exp.Extract():
            return NOWHERE
        case exp.Neg() | exp.Distinct():
            return EXPRESSION if key in ("this", "expressions") else NOWHERE
        case exp.Func():
            return EXPRESSION if key not in ("unit", "format", "zone", "to") else NOWHERE
    return EXPRESSION if isinstance(parent, arithmetic) else NOWHERE


def _nowhere(site: Site) -> Refused:
    hint = 'choose with {% if %} or {{ "DESC" if d else "ASC" }}'
    what = "a value stands where SQL has a keyword or something else that is not a value"
    return Refused(what, hint=hint, slug="sql-position", where=site.where)


def _shown(value: Any) -> str:
    what = kind(value)
    return "a fraction" if isinstance(value, float) else "a number below 0" if what == "number" else what
