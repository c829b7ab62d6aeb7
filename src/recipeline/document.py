"""Strict YAML 1.2 that remembers where everything stands.

PyYAML parses (libyaml where it is there), the composer below is our own: every key and value keeps its line and column
(from 1), only plain data come out, and what PyYAML would swallow is a problem: a key written twice, a tag that builds
objects, a tab in the indentation, an alias that grows into a billion nodes.

Scalars follow the core schema of YAML 1.2: `no` and `on` are text, `1e-3` is a number, `0o17` is 15, `12:30` is text.
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline.errors import Key, Problem, RecipeError, did_you_mean, nearest

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 2**20  # a recipe is written by hand; the longest we know has 6 KiB
MAX_NODES = 50_000  # after aliases are expanded
MAX_DEPTH = 100

_CORE = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
# Outside of these YAML allows nothing. U+0085, U+2028 and U+2029 would be line breaks to libyaml and to no editor.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OBJECT_TAG = re.compile(r"python|ruby|java|php|perl|object|apply|module|eval|exec", re.IGNORECASE)


class _Node:
    """A composed node: `value` of a scalar, `pairs` of a mapping, `items` of a sequence; the others are None."""

    __slots__ = ("column", "items", "line", "open", "pairs", "plain", "size", "value")

    def __init__(self, line: int, column: int) -> None:
        self.line, self.column = line, column
        self.value: Any = None
        self.pairs: dict[Any, tuple[_Node, int, int]] | None = None  # value, line and column of the key
        self.items: list[_Node] | None = None
        self.plain = False  # a scalar without quotes
        self.size = 1  # nodes, aliases expanded
        self.open = False  # still being composed: an alias to it is an endless loop

    def child(self, step: str | int) -> tuple[_Node, int, int] | None:
        if self.pairs is not None:
            return self.pairs.get(step)
        if self.items is not None and isinstance(step, int) and 0 <= step < len(self.items):
            node = self.items[step]
            return node, node.line, node.column
        return None

    def data(self) -> Any:
        """Plain data; what an alias names is built anew each time, so that nothing is shared."""
        if self.pairs is not None:
            return {key: node.data() for key, (node, _, _) in self.pairs.items()}
        if self.items is not None:
            return [node.data() for node in self.items]
        return self.value


@dataclass(frozen=True)
class Document:
    """Plain data and where each of them stands.

    file      as it is shown in errors
    data      dicts, lists and scalars; never shared between two places
    text      the source as it was read; empty when the data came from a mapping
    problems  mistakes that did not stop the reading (a key written twice, a refused tag)
    """

    file: str
    data: Any
    text: str = field(default="", repr=False)
    problems: tuple[Problem, ...] = ()
    _root: _Node | None = field(default=None, repr=False, compare=False)

    def mark(self, key: Key, at: str = "key") -> tuple[int, int]:
        """Line and column (from 1) of a key, or of its value with `at="value"`.

        A key that is not there gives the place of its nearest existing ancestor. (0, 0) when the data were never text.
        """
        if self._root is None:
            return 0, 0
        node, line, column = self._root, self._root.line, self._root.column
        for step in key:
            found = node.child(step)
            if found is None:
                return line, column
            node, line, column = found
        return (node.line, node.column) if at == "value" else (line, column)

    def plain(self, key: Key) -> bool:
        """Whether the scalar at `key` was written without quotes."""
        node = self._root
        for step in key:
            found = node.child(step) if node is not None else None
            if found is None:
                return False
            node = found[0]
        return node is not None and node.plain

    def locate(self, problem: Problem) -> Problem:
        """The same problem with file, line and column."""
        if problem.line:
            return problem
        line, column = self.mark(problem.key, problem.at)
        return replace(problem, file=self.file, line=line, column=column)


def read(path: str | os.PathLike[str], *, allow_empty: bool = False) -> Document:
    """A YAML file. RecipeError with all its problems; of broken syntax, the first."""
    return _strict(read_tolerant(path, allow_empty=allow_empty))


def parse(text: str | bytes, file: str = "<recipe>", *, allow_empty: bool = False) -> Document:
    """YAML text, as `read`."""
    return _strict(parse_tolerant(text, file, allow_empty=allow_empty))


def from_mapping(mapping: Mapping[str, Any], file: str = "<mapping>") -> Document:
    """Data that a program brings; there are no positions. Tuples become lists, paths become text."""
    problems: list[Problem] = []
    data = _plain(mapping, (), problems, file)
    return _strict(Document(file, data, "", tuple(problems)))


def read_tolerant(path: str | os.PathLike[str], *, allow_empty: bool = False) -> Document:
    """As `read`, but mistakes that do not stop the reading stand in `problems`."""
    path = Path(path)
    shown = shown_path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = nearest(path.name, (p.name for p in path.parent.glob("*.y*ml"))) if path.parent.is_dir() else None
        hint = f"did you mean {shown_path(path.with_name(near))}?" if near else ""
        raise RecipeError(Problem("missing-file", (), "no such file", hint, suggestion=near, file=shown)) from None
    except OSError as error:
        raise RecipeError(Problem("missing-file", (), f"cannot be read: {error.strerror}", file=shown)) from error
    return parse_tolerant(content, shown, allow_empty=allow_empty)


def parse_tolerant(text: str | bytes, file: str = "<recipe>", *, allow_empty: bool = False) -> Document:
    """As `parse`, but mistakes that do not stop the reading stand in `problems`."""
    if len(text) > MAX_BYTES:
        raise RecipeError(Problem("too-large", (), f"longer than {MAX_BYTES // 2**20} MiB", file=file, line=1, column=1))
    text = _decoded(text, file)
    found = _FORBIDDEN.search(text)
    if found:
        line, column = _place(text, found.start())
        what = f"the character U+{ord(found.group()):04X} is not allowed"
        raise RecipeError(Problem("yaml", (), what, "write it as an escape inside double quotes", file=file, line=line, column=column))
    composer = _Composer(text, file)
    root = composer.document()
    if root is None or (root.pairs is None and root.items is None and root.value is None):
        if not allow_empty:
            raise RecipeError(Problem("empty", (), "the file is empty", file=file, line=1, column=1))
        root = _Node(1, 1)
        root.pairs = {}
    if root.pairs is None:
        what = "a mapping of keys and values is expected here"
        raise RecipeError(Problem("bad-value", (), what, "write `key: value`", file=file, line=root.line, column=root.column))
    composer.check_tabs()
    return Document(file, root.data(), text, tuple(composer.problems), root)


def scalar(text: str) -> Any:
    """What YAML 1.2 reads where a plain `text` stands: a number, true, false, null, or the text itself.

    ValueError for a number that no float or int can hold.
    """
    if not text or text[0] in "~nNtTfF":
        if _NULL.match(text):
            return None
        if _TRUE.match(text):
            return True
        if _FALSE.match(text):
            return False
        return text
    if text[0] not in "0123456789+-.":
        return text
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"{text} is too large for a number")
        return number
    if _OCTAL.match(text):
        return int(text, 0)
    if _HEX.match(text):
        return int(text, 0)
    return float(text.replace(".", "", 1)) if _SPECIAL.match(text) else text


def dump(data: Any) -> str:
    """YAML text that `parse` reads back to equal data; keys keep their order."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    # Text that only YAML 1.2 takes for a number (1e-3, 0o17) gets quotes; the resolvers of 1.1 stay and quote `no`.
    Dumper.add_implicit_resolver(f"{_CORE}float", _FLOAT, list("-+0123456789."))
    Dumper.add_implicit_resolver(f"{_CORE}int", re.compile(rf"(?:{_OCTAL.pattern}|{_HEX.pattern}|{_INT.pattern})"), list("-+0123456789"))
    text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def shown_path(path: Path) -> str:
    """A path as errors show it: below the working directory when it is there, else as it was given."""
    try:
        return str(path.relative_to(Path.cwd())) if path.is_absolute() else str(path)
    except ValueError:
        return str(path)


# --- from text to nodes -----------------------------------------------------------------------


class _Composer:
    """Events of PyYAML's parser to nodes with positions."""

    def __init__(self, text: str, file: str) -> None:
        import yaml

        self.text, self.file = text, file
        self.problems: list[Problem] = []
        self.anchors: dict[str, _Node] = {}
        self.inside: list[tuple[int, int]] = []  # first and last line (from 0) of scalars over several lines
        self.nodes = 0
        self.yaml = yaml
        loader: Any = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader
        try:
            self.parser = loader(text)
        except yaml.YAMLError as error:
            raise self.syntax(error) from None

    def next(self) -> Any:
        try:
            return self.parser.get_event()
        except self.yaml.YAMLError as error:
            raise self.syntax(error) from None

    def document(self) -> _Node | None:
        events = self.yaml.events
        self.next()  # the stream starts
        event = self.next()
        if type(event) is events.StreamEndEvent:
            return None
        try:
            root = self.node(self.next(), (), 0)
        except RecursionError:  # pragma: no cover - MAX_DEPTH stops earlier unless the caller is deep already
            raise self.stop("too-deep", (), "nested too deep", event) from None
        self.next()  # the document ends
        event = self.next()
        if type(event) is not events.StreamEndEvent:
            raise self.stop("yaml", (), "a second document starts here", event, "keep one document per file")
        return root

    def node(self, event: Any, key: Key, depth: int) -> _Node:
        events = self.yaml.events
        kind = type(event)
        if kind is events.AliasEvent:
            return self.alias(event, key)
        mark = event.start_mark
        node = _Node(mark.line + 1, mark.column + 1)
        self.count(1, key, event)
        if event.anchor is not None:
            node.open = True
            self.anchors[event.anchor] = node
        if depth > MAX_DEPTH:
            raise self.stop("too-deep", key[:4], f"nested deeper than {MAX_DEPTH} levels", event)
        if kind is events.ScalarEvent:
            self.scalar(event, node, key)
        elif kind is events.SequenceStartEvent:
            self.tag(event, key, "seq")
            node.items = []
            while type(event := self.next()) is not events.SequenceEndEvent:
                item = self.node(event, (*key, len(node.items)), depth + 1)
                node.items.append(item)
                node.size += item.size
        else:
            self.tag(event, key, "map")
            self.mapping(node, key, depth)
        node.open = False
        return node

    def mapping(self, node: _Node, key: Key, depth: int) -> None:
        pairs: dict[Any, tuple[_Node, int, int]] = {}
        node.pairs = pairs
        while type(event := self.next()) is not self.yaml.events.MappingEndEvent:
            named = self.node(event, key, depth + 1)
            name = named.value
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            if named.pairs is not None or named.items is not None or name is None or (isinstance(name, float) and math.isnan(name)):
                self.report("bad-key", key, "a key must be a word or a number", event)
                name = f"<key on line {line}>"
            elif name == "<<" and named.plain:
                self.report("merge-key", (*key, "<<"), "YAML 1.2 has no merge keys", event, "write the keys out")
            step = name if isinstance(name, (str, int)) else str(name)
            value = self.node(self.next(), (*key, step), depth + 1)
            node.size += value.size + 1
            if name in pairs:
                first = pairs[name][1]
                what = f"written twice: on line {first} and on line {line}"
                self.report("duplicate-key", (*key, step), what, event, "keep one of them")
                continue
            pairs[name] = (value, line, column)

    def scalar(self, event: Any, node: _Node, key: Key) -> None:
        if event.end_mark.line > event.start_mark.line:
            self.inside.append((event.start_mark.line, event.end_mark.line))
        text, tag = event.value, event.tag
        node.plain = not event.style
        if tag is None and event.style:
            node.value = text
            return
        if tag in (None, f"{_CORE}int", f"{_CORE}float", f"{_CORE}bool", f"{_CORE}null"):
            try:
                node.value = scalar(text)
            except ValueError as error:
                what = str(error) if "too large" in str(error) else "the number has too many digits"
                self.report("bad-value", key, what, event, at="value")
                return
            if tag == f"{_CORE}float" and type(node.value) is int:
                node.value = float(node.value)
            expected = {f"{_CORE}int": int, f"{_CORE}float": float, f"{_CORE}bool": bool, f"{_CORE}null": type(None)}.get(tag or "")
            if expected is not None and type(node.value) is not expected:
                self.report("bad-value", key, f"{text!r} is not what its tag !!{tag[len(_CORE) :]} says", event, at="value")
            return
        node.value = text
        if tag not in ("!", f"{_CORE}str"):
            self.tag(event, key, "str")

    def alias(self, event: Any, key: Key) -> _Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            hint = did_you_mean(event.anchor, self.anchors)
            raise self.stop("yaml", key, f"no anchor &{event.anchor} stands before this alias", event, hint)
        if node.open:
            raise self.stop("yaml", key, f"*{event.anchor} contains itself", event, "write the value out")
        self.count(node.size, key, event)
        return node

    def count(self, more: int, key: Key, event: Any) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            raise self.stop("too-large", key, f"more than {MAX_NODES} values once aliases are expanded", event, "use fewer aliases")

    def tag(self, event: Any, key: Key, plain: str) -> None:
        tag = event.tag
        if tag is None or tag == "!" or tag == _CORE + plain:
            return
        shown = "!!" + tag[len(_CORE) :] if tag.startswith(_CORE) else tag
        refused = bool(_OBJECT_TAG.search(tag))
        what = f"the tag {shown} would build an object" if refused else f"the tag {shown} is not known here"
        slug, code = ("unsafe-tag", 4) if refused else ("unknown-tag", 3)
        self.report(slug, key, what, event, "write plain values only", at="value", exit_code=code)

    def check_tabs(self) -> None:
        """libyaml lets tabs stand as indentation inside brackets; editors show them at any width, so nothing there is true."""
        if "\t" not in self.text:
            return
        for number, line in enumerate(re.split(r"\r\n|\r|\n", self.text)):
            indent = line[: len(line) - len(line.lstrip())]
            if "\t" in indent and line.strip() and not any(first < number <= last for first, last in self.inside):
                place = {"file": self.file, "line": number + 1, "column": indent.index("\t") + 1}
                self.problems.append(Problem("tab", (), "a tab in the indentation", "use spaces", **place))  # type: ignore[arg-type]

    def problem(self, slug: str, key: Key, what: str, event: Any, hint: str, at: str, exit_code: int) -> Problem:
        mark = event.start_mark
        place = {"file": self.file, "line": mark.line + 1, "column": mark.column + 1}
        return Problem(slug, key, what, hint, at, exit_code=exit_code, **place)

    def report(self, slug: str, key: Key, what: str, event: Any, hint: str = "", at: str = "key", exit_code: int = 3) -> None:
        self.problems.append(self.problem(slug, key, what, event, hint, at, exit_code))

    def stop(self, slug: str, key: Key, what: str, event: Any, hint: str = "") -> RecipeError:
        return RecipeError([*self.problems, self.problem(slug, key, what, event, hint, "key", 3)])

    def syntax(self, error: yaml.YAMLError) -> RecipeError:
        """The parser's own words, at the line where the mistake is rather than where it was noticed."""
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        if "expected ':'" in what and getattr(error, "context_mark", None) is not None:
            mark = error.context_mark  # type: ignore[attr-defined]
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        lines = re.split(r"\r\n|\r|\n", self.text)
        source = lines[line - 1] if line <= len(lines) else ""
        if what.startswith("mapping values") and ":" not in source[: column - 1]:
            # `name churn` without its colon swallows the next line, whose own colon is then in the way
            above = next((n for n in range(line - 1, 0, -1) if lines[n - 1].strip()), 0)
            before = lines[above - 1] if above else ""
            if above and ":" not in before and not before.lstrip().startswith("#"):
                line, column, source = above, len(before) - len(before.lstrip()) + 1, before
        indent = source[: len(source) - len(source.lstrip())]
        if "\t" in indent:
            tab = Problem("tab", (), "a tab in the indentation", "use spaces", file=self.file, line=line, column=indent.index("\t") + 1)
            return RecipeError([*self.problems, tab])
        context = getattr(error, "context", None)
        what = f"not valid YAML{f' {context}' if context else ''}: {what}"
        hint = next((hint for words, hint in _HINTS.items() if words in what), "")
        if "${" in source and "flow mapping" in what:
            hint = "inside braces put quotes around ${NAME}"
        return RecipeError([*self.problems, Problem("yaml", (), what, hint, file=self.file, line=line, column=column)])


_HINTS = {
    "mapping values are not allowed in this context": "put quotes around a text with a colon, or check the indentation",
    "could not find expected ':'": "write `key: value`, with a space after the colon",
    "did not find expected key": "check the indentation and the brackets",
    "found character '@' that cannot start any token": "put quotes around the text",
    "found character '`' that cannot start any token": "put quotes around the text",
    "found character '%' that cannot start any token": "put quotes around the text",
}


def _strict(document: Document) -> Document:
    if document.problems:
        raise RecipeError(document.problems)
    return document


def _decoded(source: str | bytes, file: str) -> str:
    if isinstance(source, str):
        text = source
    else:
        try:
            text = source.decode("utf-8")
        except UnicodeDecodeError as error:
            before = source[: error.start]
            line = before.count(b"\n") + 1
            column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
            what = f"the byte 0x{source[error.start]:02x} is not UTF-8"
            raise RecipeError(Problem("encoding", (), what, "save the file as UTF-8", file=file, line=line, column=column)) from None
    return text.removeprefix("\ufeff")


def _place(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of a position in the text."""
    before = re.split(r"\r\n|\r|\n", text[:index])
    return len(before), len(before[-1]) + 1


def _plain(value: Any, key: Key, problems: list[Problem], file: str) -> Any:
    if len(key) > MAX_DEPTH:
        raise RecipeError(Problem("too-deep", key[:5], f"nested deeper than {MAX_DEPTH} levels", file=file))
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return {
            name: _plain(item, (*key, name if isinstance(name, (str, int)) else str(name)), problems, file) for name, item in value.items()
        }
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item, (*key, index), problems, file) for index, item in enumerate(value)]
    what = f"a {type(value).__name__} is not a plain value"
    problems.append(Problem("bad-value", key, what, "use text, numbers, lists and mappings", "value", file=file))
    return None


def walk(data: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value of plain data with its key, containers before what they hold."""
    yield key, data
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from walk(value, (*key, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from walk(value, (*key, index))


# --- what pydantic found, in our words -----------------------------------------------------------


def validation_problems(error: Any, data: Any, key: Key = (), model: Any = None) -> list[Problem]:
    """A pydantic `ValidationError` as problems, one for each wrong value.

    data   what was validated; steps of an error that are not in it are the branches of a union and are cut off
    key    where `data` stands
    model  the model class: its field names are the suggestions for an unknown key
    """
    grouped: dict[Key, list[Mapping[str, Any]]] = {}
    for one in error.errors(include_url=False):
        grouped.setdefault(_within(data, tuple(one["loc"]), one["type"]), []).append(one)
    return [_problem((*key, *where), found, where, model) for where, found in grouped.items()]


def _within(data: Any, loc: tuple[Any, ...], kind: str) -> Key:
    """The part of an error's place that exists in the data."""
    where: list[str | int] = []
    for index, step in enumerate(loc):
        listed = isinstance(data, Sequence) and not isinstance(data, str) and isinstance(step, int) and step < len(data)
        if listed or (isinstance(data, Mapping) and step in data):
            data = data[step]
        else:
            if kind == "missing" and index == len(loc) - 1:
                where.append(step)
            break
        where.append(step)
    return tuple(where)


def _problem(key: Key, found: list[Mapping[str, Any]], where: Key, model: Any) -> Problem:
    one = found[0]
    kind, value, context = one["type"], one.get("input"), one.get("ctx") or {}
    if kind == "extra_forbidden":
        known = fields_at(model, where[:-1])
        word = str(key[-1]) if key else ""
        return Problem("unknown-key", key, "unknown key", did_you_mean(word, known), suggestion=nearest(word, known))
    if kind == "missing":
        return Problem("missing-key", key, "is missing", "add it")
    if len(found) > 1:
        wanted = " or ".join(dict.fromkeys(_WANTED.get(each["type"], str(each["msg"]).removeprefix("Input should be ")) for each in found))
        return Problem("bad-value", key, f"{_shown(value)} is not {wanted}", at="value")
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        near = nearest(value, allowed) if isinstance(value, str) else None
        begun = [word for word in allowed if isinstance(value, str) and len(value) > 2 and word.lower().startswith(value.lower())]
        near = begun[0] if len(begun) == 1 else near  # `min` is minimize
        hint = f"did you mean {near}?" if near else ""
        return Problem("bad-value", key, f"{_shown(value)} is not one of {', '.join(allowed)}", hint, "value", suggestion=near)
    if kind in _WANTED:
        return Problem("bad-value", key, f"{_shown(value)} is not {_WANTED[kind]}", at="value")
    for name, words in _LIMITS.items():
        if kind == name:
            return Problem("bad-value", key, f"{_shown(value)} is out of range", f"{words} {next(iter(context.values()))}", "value")
    text = str(one["msg"]).removeprefix("Value error, ")
    return Problem("bad-value", key, text[:1].lower() + text[1:], at="value")


def fields_at(model: Any, where: Key) -> tuple[str, ...]:
    """Names that a (nested) pydantic model takes at a place; nothing where it is not a model."""
    for step in where:
        annotation = model.model_fields[step].annotation if model is not None and step in getattr(model, "model_fields", {}) else None
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        model = next((each for each in candidates if hasattr(each, "model_fields")), None)
    if model is None:
        return ()
    return tuple(info.alias or name for name, info in model.model_fields.items())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
}
_LIMITS = {
    "greater_than_equal": "it must be at least",
    "greater_than": "it must be more than",
    "less_than_equal": "it must be at most",
    "less_than": "it must be less than",
    "too_short": "its least length is",
    "too_long": "its greatest length is",
    "string_too_short": "its least length is",
    "string_too_long": "its greatest length is",
}
