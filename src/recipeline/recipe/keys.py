"""One mapping of a document: the keys that it may have, those that it must have, and what a wrong one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from recipeline.document import Document
from recipeline.errors import Key, Problem, did_you_mean, dotted, nearest
from recipeline.recipe.grammar import ARGUMENTS, HOMES, REFERENCE


class Keys:
    """Looks at the keys of a document's mappings; each mistake is noted in `problems` and the reading goes on."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = list(document.problems)

    def report(self, slug: str, key: Key, message: str, hint: str = "", at: str = "key", suggestion: str | None = None) -> None:
        self.add(Problem(slug, key, message, hint, at, suggestion))

    def add(self, problem: Problem) -> None:
        self.problems.append(self.document.locate(problem))

    def section(self, data: Mapping[str, Any], name: str, key: Key, *, required: bool = False) -> Mapping[str, Any] | None:
        """A mapping inside `data`; None where it is absent, empty (a null section is an empty one) or wrong."""
        where = (*key, name)
        value = data.get(name)
        if value is None:
            if required:
                example = {"loader": "loader: {name: default_loader, source_uri: …}", "data_interface": "data_interface: {task_type: …}"}
                hint = f"write {example.get(name, f'{name}: …')}"
                self.report("missing-key", where, "is missing", hint)
            return None
        if not isinstance(value, Mapping):
            hint = {"validation": "write {method: …}", "data_interface": "write {task_type: …}"}.get(name, "write it as keys and values")
            if name in ("loader", "augmenter", "preprocessor", "evaluator") and isinstance(value, str):
                hint = f"write {{name: {value}}}"
            self.report("bad-value", where, f"{shown(value)} is not a mapping", hint, "value")
            return None
        return value

    def word(self, data: Mapping[str, Any], name: str, key: Key, example: str) -> str | None:
        """A required name."""
        value = data.get(name)
        if isinstance(value, str) and REFERENCE.match(value):
            return value
        if name in data:
            self.report("bad-value", (*key, name), f"{shown(value)} is not a name", f"write {name}: {example}", "value")
            return None
        near = next((word for word in data if isinstance(word, str) and likeness(word, name) >= 0.7), None)
        if near is not None:
            self.report("unknown-key", (*key, near), "unknown key", f"did you mean {name}?", suggestion=name)
        else:
            self.report("missing-key", (*key, name), "is missing", f"write {name}: {example}")
        return None

    def named(self, name: Any, key: Key) -> bool:
        if isinstance(name, str):
            return True
        self.report("bad-key", (*key, name), f"{name!r} is not the name of an argument", "put arguments by name")
        return False

    def unknown(self, data: Mapping[str, Any], known: Sequence[str], key: Key) -> dict[str, str | None]:
        """Report the keys that the grammar does not have here; each with what it was probably meant to be."""
        wrong: dict[str, str | None] = {}
        for name in data:
            if name in known:
                continue
            where = (*key, name if isinstance(name, (str, int)) else str(name))
            homes = HOMES.get(name, ()) if isinstance(name, str) else ()
            here = dotted(key) or "the top level"
            free = [word for word in known if word not in data]
            near = nearest(str(name), free) or nearest(str(name), known)
            if homes and not (near and likeness(str(name), near) >= 0.9):
                home = homes[0]
                what = f"does not belong in {here}"
                hint = f"it stands in {' or '.join(homes)}" if home else "it stands at the top level"
                self.report("unknown-key", where, what, hint, suggestion=f"{home}.{name}" if home else str(name))
                wrong[str(name)] = None
                continue
            hint = did_you_mean(str(name), [near] if near else known)
            if near is None and ARGUMENTS[1] in known:
                hint = (
                    f"arguments of the part stand in {ARGUMENTS[0]}"
                    if key == ("model",)
                    else f"arguments of the part stand in {ARGUMENTS[1]}"
                )
            self.report("unknown-key", where, "unknown key", hint, suggestion=near)
            wrong[str(name)] = near
        return wrong


def likeness(word: str, known: str) -> float:
    return difflib.SequenceMatcher(None, word.lower().replace("-", "_"), known).ratio()


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
