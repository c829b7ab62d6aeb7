"""A template, rendered with a token of letters wherever a value is to stand.

What the template prints is either its author's (a constant, or a choice between constants) or a value. Values go
through a filter of our own that keeps them and prints a token, new for every emission: so no value enters the text,
whatever macros, loops and filters it went through, and the statement around it can be parsed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from recipeline.errors import DataError, Problem, RecipeError, RecipelineError, Refused, did_you_mean
from recipeline.stores import files
from recipeline.stores.gate import MAX_LENGTH
from recipeline.stores.templates.budget import CALL, FILE, ITEM, MACRO, Budget
from recipeline.stores.templates.values import Identifier, kind, plain

MAX_RENDERED = 8_000_000  # characters, tokens and all; 100,000 values in a loop are about three million
MAX_TEMPLATE = 250_000  # characters of one file
MAX_REPEATED = 1_000_000  # length of what `*` makes

_VALUE = "sql value"  # with a blank: no template can name them
_SOURCE = "sql source"
_JOINED = "sql joined"  # what `~` does
_WEIGHED = "sql weighed"
_LETTERS = "abcdefghijklmnopqrstuvwxy"  # z ends a token

_FILTERS = frozenset({
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "join", "last",
    "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "select", "selectattr", "slice",
    "sort", "string", "sum", "title", "trim", "truncate", "unique", "upper",
})  # fmt: skip
_METHODS = {
    str: frozenset({
        "capitalize", "count", "endswith", "find", "isalpha", "isdigit", "lower", "lstrip", "replace", "rstrip", "split", "startswith",
        "strip", "title", "upper",
    }),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}  # fmt: skip
_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Macro, nodes.Include, nodes.Import,
    nodes.FromImport, nodes.With, nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword,
    nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.BinExpr,
    nodes.UnaryExpr, nodes.Compare, nodes.Operand,
)  # fmt: skip
_QUOTES = ("'", '"', "`")


@dataclass(frozen=True)
class Site:
    """One emission of a value: where its expression stands, and whether that ends in `| join`."""

    value: Any
    where: str
    joined: bool


@dataclass(frozen=True)
class Rendered:
    """sites: token -> what it stands for; nonce begins every token; declared: names that the template reads."""

    text: str
    sites: Mapping[str, Site]
    nonce: str
    declared: frozenset[str]
    documents: Mapping[str, str]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds the tokens."""
        return re.compile(f"{self.nonce}[{_LETTERS}]+z")

    def with_site(self, start: int, end: int, site: Site) -> Rendered:
        """The same with a token for `site` instead of the text from `start` to `end`."""
        token = token_of(self.nonce, len(self.sites))
        return replace(self, text=f"{self.text[:start]}{token}{self.text[end:]}", sites={**self.sites, token: site})


def render(path: Path, params: Mapping[str, Any], *, name: str) -> Rendered:
    """The template at `path`; what it includes is read from its folder."""
    environment = _Environment(path.parent, name)
    with environment.explained():
        template = environment.get_template(path.name)
        declared = environment.declared(path.name)
        pieces, length = [], 0
        for piece in template.generate(dict(params)):
            length += len(piece)
            if length > MAX_RENDERED:
                raise Refused(f"the query is longer than {MAX_RENDERED:,} characters", slug="sql-length", where=name)
            pieces.append(piece)
    rendered = Rendered("".join(pieces), environment.sites, environment.nonce, declared, environment.documents)
    if length > MAX_LENGTH and len(rendered.pattern.sub("", rendered.text)) > MAX_LENGTH:  # its author's part; parsing would take minutes
        raise Refused(f"the query is longer than {MAX_LENGTH:,} characters", slug="sql-length", where=name)
    return rendered


def parameters(path: Path, *, name: str) -> dict[str, bool]:
    """What the template at `path`, and what it includes, reads from its parameters: name -> whether it cannot do without it.

    False for one that has a default, is asked for with `is defined`, or is read only in a branch or a loop.

    Raises as `render`, for whatever the text alone shows.
    """
    environment = _Environment(path.parent, name)
    with environment.explained():
        environment.get_template(path.name)
        declared = environment.declared(path.name)
        for other in list(environment.documents):
            environment.get_template(other)
        needed = environment.needed(path.name) & declared
    return {word: word in needed for word in sorted(declared)}


def token_of(nonce: str, number: int) -> str:
    """The token of the site of that number: letters only, because digits break the literals of INTERVAL."""
    letters = ""
    while number or not letters:
        number, digit = divmod(number, len(_LETTERS))
        letters += _LETTERS[digit]
    return f"{nonce}{letters}z"


class SqlText:
    """What a macro printed: it can be printed where it is called, and nothing else."""

    __slots__ = ("_sql",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, sql: str) -> None:
        self._sql = sql

    def _refused(self, *_: Any) -> NoReturn:
        raise Refused("the text of a macro is used as a value", hint="call the macro where its SQL is to appear", slug="sql-macro-text")

    __str__ = __repr__ = __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = __len__ = __iter__ = _refused
    __getitem__ = __contains__ = __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __int__ = __float__ = _refused
    __format__ = _refused


class _Missing(jinja2.StrictUndefined):
    """Its message names what the template asks for, and no value."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return str(self._undefined_hint)
        if self._undefined_obj is jinja2.utils.missing:
            return f"needs the parameter {self._undefined_name}"
        return "reads an attribute or an element that its value does not have"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja with the sandbox, a list of what is allowed, and the filter for values. One per rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "%", "**"})

    def __init__(self, folder: Path, shown: str) -> None:
        super().__init__(undefined=_Missing, autoescape=False, loader=jinja2.FunctionLoader(self._source), cache_size=50)
        self.folder, self.shown = folder, shown
        self.documents: dict[str, str] = {}
        self.sites: dict[str, Site] = {}
        self.nonce = "q" + "".join(secrets.choice(_LETTERS) for _ in range(9))
        self.budget = Budget()
        self.globals = {"range": safe_range, "namespace": Namespace}
        self.filters = {name: self._paid(name, FILTERS[name]) for name in _FILTERS}
        own: dict[str, Callable[..., Any]] = {
            "identifier": _identifier, _VALUE: self._emit, _SOURCE: self._items, _JOINED: self._joined, _WEIGHED: self._weighed,
        }  # fmt: skip
        self.filters |= own
        self.tests = {name: test for name, test in TESTS.items() if name not in {"escaped", "filter", "test", "callable"}}

    # --- files ---

    def _source(self, name: str) -> tuple[str, str, Callable[[], bool]]:
        return self._read(name), name, lambda: True

    def _read(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        path = self.folder.joinpath(*parts)
        inside = path.resolve().is_relative_to(self.folder.resolve()) or len(self.documents) == 0
        if "\\" in name or ".." in parts or PurePosixPath(name).is_absolute() or not inside:
            raise Refused("includes a file outside of its folder", hint="keep templates together", slug="sql-template", where=self.shown)
        if not path.is_file():
            raise DataError("there is no such template", slug="no-such-file", where=f"{self.shown}: {name}")
        try:
            text = files.read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError("is not UTF-8", hint="save it as UTF-8", slug="bad-source", where=name) from None
        if len(text) > MAX_TEMPLATE:
            raise Refused(f"the template is longer than {MAX_TEMPLATE:,} characters", slug="sql-length", where=name)
        self.documents[name] = text
        return text

    def declared(self, name: str) -> frozenset[str]:
        """Names that the template, and what it includes, reads from its parameters."""
        found: set[str] = set()
        waiting, seen = [name], set()
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            tree = self.parse(self.documents.get(one) or self._read(one), one)
            found |= meta.find_undeclared_variables(tree)
            waiting += [other for other in meta.find_referenced_templates(tree) if other is not None]
        return frozenset(found - set(self.globals))

    def needed(self, name: str) -> set[str]:
        """Names that are read whatever the values of the others are, without asking whether they are there."""
        found: set[str] = set()
        waiting, seen = [name], set()
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                for node in _always(self.parse(self.documents[one], one)):
                    if isinstance(node, nodes.Include) and isinstance(node.template, nodes.Const):
                        waiting.append(str(node.template.value))
                    elif isinstance(node, nodes.Name) and node.ctx == "load":
                        found.add(node.name)
        return found

    def where(self, name: str | None, line: int) -> str:
        return f"{self.shown if name is None or len(self.documents) == 1 else name}:{line}"

    # --- the syntax tree ---

    def _generate(self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False) -> str:
        self._check(source, name)
        for loop in list(source.find_all(nodes.For)):
            loop.iter = self._through(loop.iter, _SOURCE, [self.where(name, loop.lineno)])
        for output in list(source.find_all(nodes.Output)):
            output.nodes = [self._printed(child, name) for child in output.nodes]
        _Weighing(self).visit(source)
        return super()._generate(source, name, filename, defer_init)

    def _printed(self, child: nodes.Expr, name: str | None) -> nodes.Expr:
        if isinstance(child, nodes.TemplateData):
            return child
        if _constant(child):
            for choice in [child, *child.find_all(nodes.CondExpr)]:
                if isinstance(choice, nodes.CondExpr) and choice.expr2 is None:
                    choice.expr2 = nodes.Const("", lineno=choice.lineno, environment=self)
            return child
        where = self.where(name, child.lineno)
        _check_value(child, where)
        return self._through(child, _VALUE, [where, isinstance(child, nodes.Filter) and child.name == "join"])

    def _through(self, child: nodes.Node, name: str, words: list[Any]) -> nodes.Expr:
        arguments: list[nodes.Expr] = [word if isinstance(word, nodes.Expr) else nodes.Const(word) for word in words]
        return nodes.Filter(child, name, arguments, [], None, None).set_lineno(child.lineno).set_environment(self)  # type: ignore[return-value]

    def _check(self, tree: nodes.Template, name: str | None) -> None:
        for node in _walk(tree):
            where = self.where(name, node.lineno or 1)
            line = f"line {node.lineno or 1}"
            if not isinstance(node, _NODES):
                what = _WORDS.get(type(node).__name__, type(node).__name__)
                raise Refused(f"{line}: {what} is not allowed in an SQL template", slug="sql-template", where=where)
            if isinstance(node, (nodes.Include, nodes.Import, nodes.FromImport)) and not (
                isinstance(node.template, nodes.Const) and isinstance(node.template.value, str)
            ):
                what = f"{line}: an include whose name is not written out is not allowed in an SQL template"
                raise Refused(what, slug="sql-template", where=where)
            if isinstance(node, nodes.Filter) and node.name not in self.filters:
                what = f"{line}: the filter {node.name} is not allowed in an SQL template"
                raise Refused(what, hint=did_you_mean(str(node.name), _FILTERS | {"identifier"}), slug="sql-template", where=where)
            if isinstance(node, nodes.Test) and node.name not in self.tests:
                raise Refused(f"{line}: the test {node.name} is not allowed in an SQL template", slug="sql-template", where=where)
            if _private(node):
                raise Refused(f"{line}: a private attribute is not allowed in an SQL template", slug="sql-template", where=where)

    # --- what happens while it is rendered ---

    @property
    def _emit(self) -> Callable[..., str]:
        @pass_context  # a filter that wants the context is never computed while compiling
        def emit(context: Any, value: Any, where: str, joined: bool) -> str:
            if isinstance(value, jinja2.Undefined):
                str(value)  # raises
            if isinstance(value, SqlText):
                return value._sql
            self.budget.spend(CALL)
            value = self.budget.weigh(self.budget.turns(value) if hasattr(value, "__next__") else value)
            token = token_of(self.nonce, len(self.sites))
            self.sites[token] = Site(plain(value, where), where, joined)
            return token

        return emit

    @property
    def _items(self) -> Callable[..., Any]:
        @pass_context
        def items(context: Any, value: Any, where: str) -> Any:
            """What `{% for %}` goes over: never the letters of a text."""
            if isinstance(value, (str, Mapping, SqlText, int, float)) or value is None:
                what = "text" if isinstance(value, str) else "null" if value is None else "no list"
                raise Refused(f"{{% for %}} needs a list, got {what}", slug="sql-value", where=where)
            return self.budget.turns(value)

        return items

    @property
    def _joined(self) -> Callable[..., str]:
        @pass_context
        def joined(context: Any, *values: Any) -> str:
            return "".join(map(str, self.budget.arguments(values)))

        return joined

    @property
    def _weighed(self) -> Callable[..., Any]:
        @pass_context
        def weighed(context: Any, value: Any) -> Any:
            self.budget.spend(ITEM)
            return self.budget.weigh(value)

        return weighed

    def _paid(self, name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        """A filter of Jinja that pays for what it gets and for what it makes."""
        lead = 1 if hasattr(made, "jinja_pass_arg") else 0  # context or environment stands before the value

        @wraps(made)
        def paid(*values: Any, **words: Any) -> Any:
            given = self.budget.arguments(values[lead:])
            self.budget.arguments(words.values())
            self.budget.foresee(name, given, words)
            return self.budget.weigh(made(*values[:lead], *given, **words))

        return paid

    def get_template(self, name: Any, parent: str | None = None, globals: Any = None) -> jinja2.Template:  # noqa: A002  # Jinja's name
        self.budget.spend(FILE)
        return super().get_template(name, parent, globals)

    def call(self, __context: Any, __obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        args = tuple(self.budget.arguments(args))
        self.budget.arguments(kwargs.values())
        if isinstance(__obj, (Macro, LoopContext)):
            self.budget.spend(MACRO)
            return SqlText(str(super().call(__context, __obj, *args, **kwargs)))
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        known = any(type(owner) is kind and name in names for kind, names in _METHODS.items())
        if known:
            self.budget.weigh(owner)
            self.budget.foresee(name, [owner, *args], kwargs)
        if known or __obj in (safe_range, Namespace) or isinstance(__obj, jinja2.Undefined):
            return self.budget.weigh(super().call(__context, __obj, *args, **kwargs))
        raise Refused("this call is not allowed in an SQL template", hint="use filters", slug="sql-template")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        lengths = [len(side) for side in (left, right) if isinstance(side, (str, list, tuple))]
        if operator in "+-":
            self.budget.arguments((left, right))
            return _small(super().call_binop(context, operator, left, right))
        times = [side for side in (left, right) if isinstance(side, int)]
        if lengths and (operator != "*" or not times or lengths[0] * times[0] > MAX_REPEATED):
            raise Refused(f"{operator} on a text or a list is not allowed in an SQL template", slug="sql-template")
        if operator == "**" and (abs(left) > 2**63 or abs(right) > 64):
            raise Refused("a power is too large for an SQL template", slug="sql-template")
        return _small(self.budget.weigh(super().call_binop(context, operator, left, right)))

    # --- errors ---

    def explained(self) -> _Explained:
        return _Explained(self)


class _Explained:
    """Errors of Jinja as ours, with the line of the template; theirs show values."""

    def __init__(self, environment: _Environment) -> None:
        self._environment = environment

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        where = self._where(error)
        match error:
            case RecipelineError():
                error.where = error.where or where
            case jinja2.UndefinedError():
                hint = "give it in --context-params, or write {{ name | default(…) }} or {% if name is defined %}"
                raise _mistake("missing-parameter", f"the template {error.message}", where, hint) from None
            case SecurityError():
                raise Refused("reaches for what is not allowed in an SQL template", slug="sql-template", where=where) from None
            case jinja2.TemplateSyntaxError():
                where = self._environment.where(error.name, error.lineno)
                raise _mistake("sql-template-syntax", f"the template cannot be read: {error.message}", where) from None
            case RecursionError():
                raise _mistake("sql-template", "the template is nested too deep, or includes or calls itself", where) from None
            case _:  # TypeError, ZeroDivisionError …: what an expression makes of its values
                what = f"an expression of the template fails on its values ({type(error).__name__})"
                raise _mistake("sql-value", what, where) from None

    def _where(self, error: Exception) -> str:
        """The last line of a template on the way to the error."""
        trace, found = error.__traceback__, self._environment.shown
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if name in self._environment.documents:
                found = self._environment.where(name, trace.tb_lineno)
            trace = trace.tb_next
        return found


def _mistake(slug: str, what: str, where: str, hint: str = "") -> RecipeError:
    return RecipeError(Problem(slug, (), what, hint, file=where))


_WORDS = {
    "CallBlock": "{% call %}", "FilterBlock": "{% filter %}", "Extends": "{% extends %}", "Block": "{% block %}",
    "ScopedEvalContextModifier": "{% autoescape %}", "Scope": "{% autoescape %}", "AssignBlock": "{% set %} with a body",
    "ExprStmt": "{% do %}",
}  # fmt: skip


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _always(node: nodes.Node) -> Iterator[nodes.Node]:
    """The nodes that are reached in every rendering, but for a name that only is asked for, or has a default."""
    yield node
    match node:
        case nodes.If() | nodes.CondExpr():
            yield from _always(node.test)
        case nodes.For():
            yield from _always(node.iter)
        case nodes.And() | nodes.Or():
            yield from _always(node.left)
        case nodes.Macro() | nodes.Import() | nodes.FromImport():
            return
        case nodes.Test(name="defined" | "undefined") | nodes.Filter(name="default" | "d") if isinstance(node.node, nodes.Name):
            for argument in getattr(node, "args", None) or ():
                yield from _always(argument)
        case _:
            for child in node.iter_child_nodes():
                yield from _always(child)


def _constant(node: nodes.Node | None) -> bool:
    """Printed, it is the author's own text whatever the parameters are."""
    if isinstance(node, nodes.CondExpr):
        return _constant(node.expr1) and (node.expr2 is None or _constant(node.expr2))
    return isinstance(node, nodes.Const) and isinstance(node.value, (str, int, float))


def _check_value(node: nodes.Expr, where: str) -> None:
    """Mistakes in an expression that prints a value which its own text shows."""
    for inner in _walk(node):
        if isinstance(inner, nodes.CondExpr) and inner.expr2 is None:
            hint = "write {{ a if b else c }}, or {% if %} around what is to be left out"
            raise Refused("a value without else", hint=hint, slug="sql-no-else", where=where)
        if isinstance(inner, nodes.Const) and isinstance(inner.value, str):
            text = inner.value.strip()
            if text.startswith(_QUOTES) or text.endswith(_QUOTES):
                hint = "write '{{ x }}', or IN ({{ xs }})"
                raise Refused("a quote stands in the expression", hint=hint, slug="sql-quotes", where=where)


def _private(node: nodes.Node) -> bool:
    name = node.attr if isinstance(node, nodes.Getattr) else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        name = node.arg.value
    return isinstance(name, str) and name.startswith("_")


def _identifier(value: Any) -> Identifier:
    if not isinstance(value, str):
        str(value)  # raises where there is no value
        raise Refused(f"needs a name, got {kind(value)}", slug="sql-identifier")
    return Identifier(value)


def _small(value: Any) -> Any:
    """A number that a database has; larger ones take as long to multiply as one likes."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise Refused("a value is a number of more than 64 bits", slug="sql-value")
    return value


class _Weighing(NodeTransformer):
    """What has no hook of the sandbox pays through a filter: `~`, lists, slices, and what is compared or tested."""

    def __init__(self, environment: _Environment) -> None:
        self.environment = environment

    def visit(self, node: nodes.Node, *_: Any, **__: Any) -> nodes.Node:
        self.generic_visit(node)
        match node:
            case nodes.Concat():
                first, *rest = node.nodes
                return self.environment._through(first, _JOINED, rest)
            case nodes.List() | nodes.Dict():
                return self._weighed(node)
            case nodes.Tuple() if node.ctx == "load":
                return self._weighed(node)
            case nodes.Getitem() if isinstance(node.arg, nodes.Slice):
                return self._weighed(node)
            case nodes.Compare():
                node.expr = self._weighed(node.expr)
                for operand in node.ops:
                    operand.expr = self._weighed(operand.expr)
            case nodes.Test():
                if not isinstance(node.node, nodes.Name) or node.name not in {"defined", "undefined"}:
                    node.node = self._weighed(node.node)
                node.args = [self._weighed(argument) for argument in node.args]
        return node

    def _weighed(self, node: nodes.Node) -> nodes.Expr:
        return node if isinstance(node, nodes.Const) else self.environment._through(node, _WEIGHED, [])
