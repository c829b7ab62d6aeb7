"""Plants one mistake at a time in the text of a recipe, and knows where it should be found.

Each function takes the text of a valid recipe and a `random.Random`, and yields `Mistake`s: the text with the mistake, the
line (from 1) that an error must name, the name that it should suggest (None where there is nothing to suggest), and a kind.

`FOR_THE_RECIPE` are mistakes that the grammar alone reveals; those of `FOR_THE_CLASSES` need the classes that the recipe names.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from recipeline import document
from recipeline.errors import Key, Problem

PARTS = ("model", "loader", "augmenter", "preprocessor", "evaluator")
WORDS = ("class_path", "name", "type")
ARGUMENTS = ("hyperparameters", "params")
RANGES = ("int", "float", "categorical")
NEIGHBOURS = (
    "mse", "rmse", "msle", "rmsle", "mae", "mape", "mase", "wape", "smape", "medae", "f1", "r2",
    "coverage", "coverage_50", "coverage_80", "coverage_90", "coverage_95",
)  # fmt: skip
"""One slip turns one of these into another."""
ALIASES = ("logloss", "rocauc", "auc", "aucroc")  # one slip away from the name of a metric, and names themselves


class Mistake(NamedTuple):
    text: str
    line: int
    suggestion: str | None
    kind: str


def found(mistake: Mistake, problems: Iterable[Problem]) -> bool:
    """Whether a problem stands at the line of the mistake."""
    return any(problem.line == mistake.line for problem in problems)


def suggested(mistake: Mistake, problems: Iterable[Problem]) -> bool:
    """Whether a problem at the line of the mistake suggests the right name (of a dotted path, its end is enough)."""
    wanted = mistake.suggestion
    given = [problem.suggestion for problem in problems if problem.line == mistake.line and problem.suggestion]
    return any(wanted is not None and (one == wanted or re.split(r"[.:]", one)[-1] == re.split(r"[.:]", wanted)[-1]) for one in given)


# --- what the grammar alone reveals ------------------------------------------------------------


def grammar_keys(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt key of the grammar, at every place where the recipe has one."""
    read = document.parse(text)
    for key, container in _keys(read.data):
        if _is_grammar(key, container):
            yield _key_typo(text, read, key, rng, "grammar key", avoid=container)


def range_keys(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt key of a search range."""
    read = document.parse(text)
    for key, container in _keys(read.data):
        if container.get("type") in RANGES and {"low", "choices"} & set(container) and "literal" not in key:
            yield _key_typo(text, read, key, rng, "range key", avoid=container)


def words(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt value where the grammar knows all values: direction, pruner, the type of a range."""
    read = document.parse(text)
    for key, value in document.walk(read.data):
        known = key[-1:] in (("direction",), ("algorithm",)) and key[0] == "hyperparameter_tuning"
        if known or (key[-1:] == ("type",) and value in RANGES):
            yield _value_typo(text, read, key, value, rng, "word")


def wrong_values(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A value of the wrong type or out of its range."""
    read = document.parse(text)
    wrong: dict[Key, tuple[str, ...]] = {
        ("name",): ("17", "[a, b]", "true"),
        ("seed",): ("abc", "-1", "1.5", "4294967296", "true"),
        ("model", "class_path"): ("17", "[a]", "'two words'"),
        ("model", "loader", "name"): ("17", "[a]", "''"),
        ("model", "data_interface", "task_type"): ("17", "[classification]", "null"),
        ("hyperparameter_tuning", "enabled"): ("'yes'", "1", "[true]"),
        ("hyperparameter_tuning", "n_trials"): ("0", "-1", "1000000000", "many", "1.5", "true"),
        ("hyperparameter_tuning", "metric"): ("17", "[roc_auc]", "''"),
        ("hyperparameter_tuning", "direction"): ("17", "sideways", "[maximize]"),
        ("evaluation", "metrics"): ("accuracy", "[]", "17", "[17]"),
        ("evaluation", "validation", "method"): ("17", "[a]", "null"),
    }
    for key, values in wrong.items():
        if _get(read.data, key) is not None and read.mark(key)[0] == read.mark(key, "value")[0]:  # a block would need more than one line
            yield Mistake(_with_value(text, read, key, rng.choice(values)), read.mark(key)[0], None, "wrong value")
    for key, value in document.walk(read.data):
        if isinstance(value, dict) and value.get("type") in ("int", "float") and {"low", "high"} <= set(value):
            low, high = value["low"], value["high"]
            for word, instead in (("low", f"{high}"), ("high", f"{low}"), ("low", rng.choice(["few", "true", "[1]", ".inf"]))):
                line = read.mark((*key, "low"))[0] if instead in (f"{high}", f"{low}") else read.mark((*key, word))[0]
                yield Mistake(_with_value(text, read, (*key, word), instead), line, None, "wrong value")


def wrong_levels(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A key of the grammar in a section where it does not belong."""
    read = document.parse(text)
    strays = {
        (): ("n_trials: 5", "target_col: y", "test_size: 0.2", "loader: {name: default_loader}", "metrics: [accuracy]"),
        ("model",): ("n_trials: 5", "test_size: 0.2", "seed: 1", "validation: {method: train_test_split}", "source_uri: x.csv"),
        ("model", "loader"): ("target_col: y", "seed: 1", "preprocessor: {name: default_preprocessor}"),
        ("hyperparameter_tuning",): ("test_size: 0.2", "seed: 1", "algorithm: MedianPruner", "task_type: classification"),
        ("evaluation",): ("test_size: 0.2", "n_trials: 5", "seed: 1", "task_type: regression", "direction: maximize"),
    }
    for key, lines in strays.items():
        if isinstance(_get(read.data, key), dict) and _get(read.data, key):
            stray = rng.choice([line for line in lines if line.split(":")[0] not in _get(read.data, key)])
            planted = _with_entry(text, read, key, stray)
            if planted is not None:
                yield Mistake(*planted, None, "wrong level")


def duplicates(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A key written twice, or a part named by two synonyms."""
    read = document.parse(text)
    containers = [key for key, value in document.walk(read.data) if isinstance(value, dict) and value]
    for key in rng.sample(containers, min(4, len(containers))):
        name = rng.choice(list(_get(read.data, key)))
        planted = _with_entry(text, read, key, f"{name}: 1")
        if planted is not None:
            line = max(planted[1], read.mark((*key, name))[0] + (read.mark((*key, name))[0] >= planted[1]))
            yield Mistake(planted[0], line if _one_line(read, key) is False else planted[1], None, "duplicate")
    for key in (("model",), ("model", "loader"), ("model", "preprocessor")):
        part = _get(read.data, key)
        if isinstance(part, dict):
            free = [word for word in WORDS if word not in part]
            if len(free) == 2:
                planted = _with_entry(text, read, key, f"{rng.choice(free)}: other")
                if planted is not None:
                    given = next(word for word in WORDS if word in part)
                    first = planted[1] <= read.mark((*key, given))[0] and _one_line(read, key) is False
                    yield Mistake(planted[0], read.mark((*key, given))[0] + 1 if first else planted[1], None, "synonyms")


# --- what needs the classes --------------------------------------------------------------------


def argument_names(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt constructor argument, of every part that the recipe names."""
    read = document.parse(text)
    for key, container in _keys(read.data):
        holder = _get(read.data, key[:-2]) if len(key) > 2 else {}
        if len(key) < 3 or key[-2] not in ARGUMENTS or not isinstance(holder, dict):
            continue
        if ("class_path" in holder or (len(key) <= 5 and key[-3] in PARTS)) and isinstance(key[-1], str) and len(key[-1]) > 2:
            yield _key_typo(text, read, key, rng, "argument", avoid=container)


def class_paths(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt class, or a misspelt registered name of a part."""
    read = document.parse(text)
    for key, value in document.walk(read.data):
        named = len(key) >= 2 and key[-1] in ("name", "type") and key[-2] in PARTS
        if isinstance(value, str) and (key[-1:] == ("class_path",) or named):
            yield _value_typo(text, read, key, value, rng, "class path")


def metric_names(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt metric."""
    read = document.parse(text)
    for key, value in document.walk(read.data):
        asked = key[:2] == ("evaluation", "metrics") or key == ("hyperparameter_tuning", "metric")
        if asked and isinstance(value, str) and value not in NEIGHBOURS:
            yield _value_typo(text, read, key, value, rng, "metric", avoid=ALIASES)


def splitter_names(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt validation method, and misspelt arguments of it."""
    read = document.parse(text)
    where = ("evaluation", "validation")
    for name, value in (_get(read.data, where) or {}).items():
        if name == "method":
            yield _value_typo(text, read, (*where, name), value, rng, "splitter")
        else:
            yield _key_typo(text, read, (*where, name), rng, "splitter argument", avoid=_get(read.data, where))


def interface_keys(text: str, rng: random.Random) -> Iterator[Mistake]:
    """A misspelt key of data_interface, and a misspelt task."""
    read = document.parse(text)
    where = ("model", "data_interface")
    for name, value in _get(read.data, where).items():
        if name == "task_type":
            yield _value_typo(text, read, (*where, name), value, rng, "task")
        else:
            yield _key_typo(text, read, (*where, name), rng, "interface", avoid=_get(read.data, where))


FOR_THE_RECIPE: tuple[Callable[[str, random.Random], Iterator[Mistake]], ...] = (
    grammar_keys, range_keys, words, wrong_values, wrong_levels, duplicates,
)  # fmt: skip
FOR_THE_CLASSES: tuple[Callable[[str, random.Random], Iterator[Mistake]], ...] = (
    argument_names, class_paths, metric_names, splitter_names, interface_keys,
)  # fmt: skip


def planted(text: str, rng: random.Random, *, classes: bool = False) -> Iterator[Mistake]:
    """Every kind of mistake in turn; with `classes`, also those that need the classes."""
    for plant in FOR_THE_RECIPE + (FOR_THE_CLASSES if classes else ()):
        yield from plant(text, rng)


# --- editing text --------------------------------------------------------------------------------


def typo(word: str, rng: random.Random, avoid: Iterable[str] = ()) -> str:
    """The word as a hurried hand writes it: a letter missing, doubled, wrong, or exchanged with its neighbour."""
    while True:
        place = rng.randrange(len(word))
        made = rng.choice(
            [
                word[:place] + word[place + 1 :],
                word[:place] + word[place] + word[place:],
                word[:place] + rng.choice(string.ascii_lowercase) + word[place + 1 :],
                word[: max(place - 1, 0)] + word[place : place + 1] + word[max(place - 1, 0) : place] + word[place + 1 :],
            ]
        )
        if made not in (word, "") and made not in avoid and re.fullmatch(r"[A-Za-z_]\w*", made):
            return made


def _is_grammar(key: Key, container: dict[str, Any]) -> bool:
    if key[:2] == ("model", "data_interface"):
        return key[2:] in ((), ("task_type",))
    if key[:2] == ("evaluation", "validation"):
        return key[2:] in ((), ("method",))
    if "literal" in key or (key[:3] == ("model", "augmenter", "features") and len(key) > 3) or not isinstance(key[-1], str):
        return False
    inside = any(step in ARGUMENTS for step in key[:-1])
    if not inside:
        return True
    if "class_path" in container:
        return key[-1] in ("class_path", *ARGUMENTS)
    # an item of a list, {name, estimator: {class_path: …}}; what its columns say is not grammar
    listed = len(key) > 1 and isinstance(key[-2], int)
    return listed and any(word in container for word in ("estimator", "transformer")) and "name" in container


def _keys(data: Any, key: Key = ()) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Every key of every mapping, with that mapping."""
    for where, value in document.walk(data, key):
        if isinstance(value, dict):
            for name in value:
                yield (*where, name), value


def _key_typo(text: str, read: document.Document, key: Key, rng: random.Random, kind: str, avoid: Iterable[Any]) -> Mistake:
    word = str(key[-1])
    line, column = read.mark(key)
    known = {*map(str, avoid), *WORDS, *ARGUMENTS}
    return Mistake(_replaced(text, line, column, word, typo(word, rng, known)), line, word, kind)


def _value_typo(
    text: str, read: document.Document, key: Key, value: str, rng: random.Random, kind: str, avoid: Iterable[str] = ()
) -> Mistake:
    line, column = read.mark(key, "value")
    head, dot, last = value.rpartition(".")
    return Mistake(_replaced(text, line, column, value, f"{head}{dot}{typo(last, rng, avoid)}"), line, last, kind)


def _replaced(text: str, line: int, column: int, old: str, new: str) -> str:
    lines = text.split("\n")
    source = lines[line - 1]
    start = column - 1 + (source[column - 1] in "\"'")
    assert source[start:].startswith(old), (source, column, old)
    lines[line - 1] = source[:start] + new + source[start + len(old) :]
    return "\n".join(lines)


def _with_value(text: str, read: document.Document, key: Key, new: str) -> str:
    """The text with another value on one line; the old one may be a scalar or a flow collection."""
    line, column = read.mark(key, "value")
    lines = text.split("\n")
    source = lines[line - 1]
    old = re.match(r"\"[^\"]*\"|'[^']*'|\[[^\]]*\]|[^,}\]\s#]+", source[column - 1 :])
    assert old is not None, source
    lines[line - 1] = source[: column - 1] + new + source[column - 1 + old.end() :]
    return "\n".join(lines)


def _with_entry(text: str, read: document.Document, key: Key, entry: str) -> tuple[str, int] | None:
    """The text with one more `key: value` as the first of a mapping, and its line; None for an empty mapping."""
    line, column = read.mark(key, "value") if key else (0, 0)
    lines = text.split("\n")
    if key and lines[line - 1][column - 1] == "{":
        source = lines[line - 1]
        lines[line - 1] = f"{source[:column]}{entry}, {source[column:]}"
        return "\n".join(lines), line
    first = min(read.mark((*key, name))[0] for name in _get(read.data, key))
    start = min(read.mark((*key, name))[1] for name in _get(read.data, key))
    head = lines[first - 1][: start - 1]
    if head.strip():  # the first entry stands behind the dash of a list
        lines[first - 1] = head + entry
        lines.insert(first, " " * (start - 1) + text.split("\n")[first - 1][start - 1 :])
        return "\n".join(lines), first
    lines.insert(first - 1, " " * (start - 1) + entry)
    return "\n".join(lines), first


def _one_line(read: document.Document, key: Key) -> bool:
    """Whether a mapping is written in braces."""
    if not key:
        return False
    line, column = read.mark(key, "value")
    return read.text.split("\n")[line - 1][column - 1] == "{"


def _get(data: Any, key: Key) -> Any:
    for step in key:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int):
            data = data[step]
        else:
            return None
    return data
