"""The arguments of a part, taken apart: parts inside parts, items of lists, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recipeline.errors import Key, did_you_mean, dotted, nearest
from recipeline.recipe.grammar import ALL_RANGE_KEYS, ARGUMENTS, BESIDE, DEFAULTS, EXAMPLES, NAMES, RANGE_KEYS, RANGE_TYPES, REFERENCE
from recipeline.recipe.keys import Keys, likeness, shown
from recipeline.recipe.parts import MISSING, Named, PartSpec, Range, alike, short

MAX_CHOICES = 1_000


class Arguments:
    """Reads a part and whatever stands in its arguments."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.taken: set[str] = set()  # names of ranges

    def part(
        self, raw: Mapping[str, Any], key: Key, role: str, name: tuple[str, ...] | None, *, unknown: Mapping[str, str | None]
    ) -> PartSpec | None:
        """The part that a mapping names. `name`: how its ranges are named; None where a range would be ignored."""
        reference, reference_key = self.reference(raw, key, role, unknown)
        given = [word for word in ARGUMENTS if raw.get(word) is not None]
        argument_key = (*key, given[0] if given else next((word for word in ARGUMENTS if word in raw), ARGUMENTS[role != "model"]))
        if len(given) == 2:
            self.twice(raw, key, ARGUMENTS, given)
        arguments: dict[str, Any] = {}
        for word in given:
            where = (*key, word)
            if not isinstance(raw[word], Mapping):
                self.keys.report("bad-value", where, f"{shown(raw[word])} is not a mapping", f"write {word}: {{argument: value}}", "value")
                continue
            for argument, value in raw[word].items():
                if self.keys.named(argument, where) and argument not in arguments:
                    arguments[argument] = self.value(value, (*where, argument), None if name is None else (*name, argument))
        beside = [word for word in BESIDE.get(role, ()) if word in raw]
        for word in beside:
            if word in arguments:
                self.keys.report("duplicate-key", (*key, word), f"given here and in {dotted(argument_key)}", "keep one of them")
            arguments[word] = self.value(raw[word], (*key, word), None)
        if reference is None:
            return None
        return PartSpec(role, reference, arguments, key, argument_key, reference_key, frozenset(beside))

    def reference(self, raw: Mapping[str, Any], key: Key, role: str, unknown: Mapping[str, str | None]) -> tuple[str | None, Key]:
        words = NAMES if role != "part" else NAMES[:1]
        given = [word for word in words if word in raw]
        if not given:
            if role in DEFAULTS and not set(words) & set(unknown.values()):
                return DEFAULTS[role], key
            if not set(words) & set(unknown.values()):
                example = {"model": "class_path: sklearn.linear_model.LogisticRegression", "part": "class_path: …"}.get(
                    role, f"name: {EXAMPLES.get(role, '…')}"
                )
                self.keys.report("missing-key", (*key, words[0] if role in ("model", "part") else "name"), "is missing", f"write {example}")
            return None, key
        if len(given) > 1:
            self.twice(raw, key, words, given)
        where = (*key, given[0])
        reference = raw[given[0]]
        if isinstance(reference, Mapping):
            hint = "a choice between parts stands in arguments: {type: categorical, choices: [{class_path: …}, …]}"
            if role == "model":
                hint = f"{hint}, such as the estimator of a step of sklearn.pipeline.Pipeline"
            self.keys.report("bad-value", where, "a mapping is not the name of a part", hint, "value")
        elif not isinstance(reference, str) or not REFERENCE.match(reference):
            self.keys.report(
                "bad-value", where, f"{shown(reference)} is not the name of a part", "write a registered name or a dotted path", "value"
            )
        else:
            return reference, where
        return None, where

    def twice(self, raw: Mapping[str, Any], key: Key, words: Sequence[str], given: Sequence[str]) -> None:
        """Synonyms of one thing: the later ones in the file are the mistakes."""
        first, *others = [word for word in raw if word in given]
        for word in others:
            what = f"{first} and {word} are synonyms"
            self.keys.report(
                "duplicate-key", (*key, word), what, f"keep one of {', '.join(words)}" if len(words) > 2 else "keep one of them"
            )

    def value(self, raw: Any, key: Key, name: tuple[str, ...] | None, *, required: bool = False) -> Any:
        """What stands for a value in arguments. `required`: it stands where nothing can be left out."""
        if isinstance(raw, list):
            return self.items(raw, key, name)
        if not isinstance(raw, Mapping):
            return raw
        if len(raw) == 1 and "literal" in raw:
            return raw["literal"]
        if "class_path" in raw:
            unknown = self.keys.unknown(raw, (NAMES[0], *ARGUMENTS), key)
            return self.part(raw, key, "part", name, unknown=unknown)
        wrong = next(
            (word for word in raw if isinstance(word, str) and isinstance(raw[word], str) and likeness(word, "class_path") >= 0.8), None
        )
        if wrong is not None:
            self.keys.report("unknown-key", (*key, wrong), "unknown key", "did you mean class_path?", suggestion="class_path")
            return None
        if _range_like(raw):
            return self.range(raw, key, name, required=required)
        return {word: self.value(value, (*key, word), None if name is None else (*name, str(word))) for word, value in raw.items()}

    def items(self, raw: Sequence[Any], key: Key, name: tuple[str, ...] | None) -> list[Any]:
        items: list[Any] = []
        names: dict[str, int] = {}
        for index, item in enumerate(raw):
            where = (*key, index)
            word = _named_word(item)
            if word is not None:
                named = self.item(item, where, word, name, names)
                items.append(named)
                if named is not None:
                    if named.name in names:
                        line = self.keys.document.mark((*key, names[named.name], "name"))[0]
                        self.keys.report(
                            "duplicate-value", (*where, "name"), f"{named.name} names two items", f"the other is on line {line}", "value"
                        )
                    names.setdefault(named.name, index)
                continue
            wrong = _misspelt_word(item)
            if wrong is not None:
                key_of_wrong, meant = wrong
                self.keys.report("unknown-key", (*where, key_of_wrong), "unknown key", f"did you mean {meant}?", suggestion=meant)
                continue
            inner = name
            if name is not None and isinstance(item, Mapping) and isinstance(item.get("class_path"), str):
                inner = (*name, short(item["class_path"]))
            items.append(self.value(item, where, inner, required=True))
        return items

    def item(self, item: Mapping[str, Any], key: Key, word: str, name: tuple[str, ...] | None, names: Mapping[str, int]) -> Named | None:
        """{name, estimator}, {name, transformer, columns}, or {class_path, params, columns} with or without a name."""
        inline = word == "class_path"
        unknown = self.keys.unknown(item, ("name", "columns", *((word, *ARGUMENTS) if inline else (word,))), key)
        given = item.get("name")
        if inline and given is None and isinstance(item["class_path"], str):
            given = short(item["class_path"]).lower()
            same, number = given, 1
            while given in names:
                number += 1
                given = f"{same}-{number}"
        if not isinstance(given, str) or not given:
            if "name" not in unknown.values():
                slug, what = ("missing-key", "is missing") if given is None else ("bad-value", f"{given!r} is not a name")
                self.keys.report(slug, (*key, "name"), what, "give the item a name", "key" if given is None else "value")
            given = None
        outer = None if name is None else (*name[:-1], given or "")
        if inline:
            part = {each: value for each, value in item.items() if each not in ("name", "columns")}
            value: Any = self.part(part, key, "part", outer, unknown=unknown)
        elif isinstance(item[word], Mapping):
            if "class_path" in item[word] or _range_like(item[word]):
                value = self.value(item[word], (*key, word), outer, required=True)
            else:
                wrong = self.keys.unknown(item[word], (NAMES[0], *ARGUMENTS), (*key, word))
                value = self.part(item[word], (*key, word), "part", outer, unknown=wrong)
        else:
            value = item[word]
            if value is not None and value not in ("passthrough", "drop"):
                self.keys.report("bad-value", (*key, word), f"{shown(value)} is not a part", f"write {word}: {{class_path: …}}", "value")
        columns = MISSING
        if "columns" in item:
            columns = self.value(item["columns"], (*key, "columns"), None if outer is None else (*outer, "columns"), required=True)
        return None if given is None else Named(given, value, columns, key, word)

    # ranges

    def range(self, raw: Mapping[str, Any], key: Key, name: tuple[str, ...] | None, *, required: bool) -> Any:
        if name is None:
            if {"low", "high", "choices"} & set(raw):
                hint = "ranges stand in model.hyperparameters and preprocessor.params; {literal: {…}} passes a mapping as it is"
                self.keys.report("ignored-range", key, "a range here would be ignored", hint)
            return dict(raw)
        kind = raw.get("type")
        if kind not in RANGE_TYPES:
            return self.wrong_type(raw, key)
        before = len(self.keys.problems)
        unknown = self.keys.unknown(raw, RANGE_KEYS[kind], key)
        full = self.unique(name)
        if kind == "categorical":
            found = self.categorical(raw, key, name, full, unknown, required)
        else:
            found = self.numeric(raw, key, kind, full, unknown, required)
        return found if len(self.keys.problems) == before else None

    def wrong_type(self, raw: Mapping[str, Any], key: Key) -> None:
        if "type" in raw:
            near = nearest(str(raw["type"]), RANGE_TYPES)
            hint = f"did you mean {near}?" if near else "{literal: {…}} passes a mapping as it is"
            what = f"{shown(raw['type'])} is not one of {', '.join(RANGE_TYPES)}"
            self.keys.report("bad-value", (*key, "type"), what, hint, "value", near)
        else:
            wrong = next(word for word in raw if word not in ALL_RANGE_KEYS)
            self.keys.report("unknown-key", (*key, wrong), "unknown key", "did you mean type?", suggestion="type")

    def categorical(
        self, raw: Mapping[str, Any], key: Key, name: tuple[str, ...], full: str, unknown: Mapping[str, str | None], required: bool
    ) -> Range | None:
        written = raw.get("choices")
        where = (*key, "choices")
        if not isinstance(written, list) or not written:
            if "choices" not in unknown.values():
                slug = "missing-key" if "choices" not in raw else "bad-value"
                self.keys.report(
                    slug, where, "a list of choices is expected", "write choices: [a, b]", "key" if "choices" not in raw else "value"
                )
            return None
        if len(written) > MAX_CHOICES:
            hint = "write a range of numbers: {type: int, low, high}"
            self.keys.report("bad-value", where, f"more than {MAX_CHOICES:,} choices", hint, "value")
            return None
        choices: list[Any] = []
        labels: list[str] = []
        for index, choice in enumerate(written):
            if isinstance(choice, Mapping) and "class_path" not in choice and "literal" not in choice and _range_like(choice):
                self.keys.report("bad-value", (*where, index), "a range is not a choice", "write it as a range of its own")
                continue
            inner = name
            if isinstance(choice, Mapping) and isinstance(choice.get("class_path"), str):
                label = _label_of(choice["class_path"], labels)
                labels.append(label)
                inner = (*name, label)
            value = self.value(choice, (*where, index), inner)
            if any(alike(value, other) for other in choices):
                self.keys.report("duplicate-value", (*where, index), f"{shown(choice)} is a choice twice", "keep one of them", "value")
            choices.append(value)
        default = raw.get("default", MISSING)
        if isinstance(default, (Mapping, list)) and default in written:
            default = choices[written.index(default)] if len(choices) == len(written) else MISSING
        found = Range("categorical", key, full, choices=tuple(choices), default=default, required=required)
        if default is not MISSING and found.index_of(default) is None and (labels or isinstance(default, Mapping)):
            hint = did_you_mean(str(default), [str(label) for label in found.labels])
            self.keys.report(
                "bad-value", (*key, "default"), f"{shown(default)} is not one of the choices", hint, "value", nearest(str(default), labels)
            )
        return found

    def numeric(
        self, raw: Mapping[str, Any], key: Key, kind: str, full: str, unknown: Mapping[str, str | None], required: bool
    ) -> Range | None:
        numbers: dict[str, Any] = {}
        for word in ("low", "high", "step"):
            value = raw.get(word)
            if value is None:
                if word != "step" and word not in unknown.values():
                    hint = f"write {word}: a number; {{literal: {{…}}}} passes a mapping as it is"
                    self.keys.report("missing-key", (*key, word), "is missing", hint)
            elif not _is_number(value, kind):
                self.keys.report(
                    "bad-value", (*key, word), f"{shown(value)} is not {'a whole' if kind == 'int' else 'a finite'} number", at="value"
                )
            else:
                numbers[word] = value
        log = raw.get("log", False)
        if not isinstance(log, bool):
            self.keys.report("bad-value", (*key, "log"), f"{shown(log)} is not true or false", at="value")
            log = False
        low, high, step = (numbers.get(word) for word in ("low", "high", "step"))
        if low is not None and high is not None and low >= high:
            self.keys.report("bad-value", (*key, "low"), f"low {low} is not less than high {high}", "exchange or correct them", "value")
        elif step is not None and not 0 < step <= ((high if high is not None else math.inf) - (low or 0)):
            self.keys.report(
                "bad-value", (*key, "step"), f"step {step} does not fit between low and high", "it must be more than 0", "value"
            )
        if log and low is not None and low <= 0:
            self.keys.report("bad-value", (*key, "low"), f"log needs low > 0, not {low}", "raise low, or remove log", "value")
        if log and step is not None:
            self.keys.report("bad-value", (*key, "step"), "step and log exclude each other", "remove one of them")
        default = raw.get("default", MISSING)
        if default is not MISSING and isinstance(default, (list, Mapping)):
            self.keys.report("bad-value", (*key, "default"), f"{shown(default)} is not a number", at="value")
        if required and default is MISSING:
            self.keys.report("missing-key", (*key, "default"), "an item of a list cannot be left out", "give the range a default")
        if low is None or high is None:
            return None
        return Range("int" if kind == "int" else "float", key, full, low, high, step, log, (), default, required)

    def unique(self, name: tuple[str, ...]) -> str:
        """The name of a range; what would be a second one of that name is counted from 2."""
        full, number = ".".join(name), 1
        unique = full
        while unique in self.taken:
            number += 1
            unique = f"{full}_{number}"
        self.taken.add(unique)
        return unique


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) if kind == "int" else math.isfinite(value)


def _range_like(raw: Mapping[str, Any]) -> bool:
    """A range, or what was surely meant to be one: its type or the word `type` misspelt, the rest a range's."""
    kind = raw.get("type")
    if isinstance(kind, str) and kind in RANGE_TYPES:
        return True
    bounded = bool({"low", "high", "choices"} & set(raw))
    if "type" in raw:
        return bounded and set(raw) <= set(ALL_RANGE_KEYS)
    others = [word for word in raw if word not in ALL_RANGE_KEYS]
    return (
        bounded and len(others) == 1 and raw[others[0]] in RANGE_TYPES and isinstance(others[0], str) and likeness(others[0], "type") >= 0.5
    )


def _named_word(item: Any) -> str | None:
    """The word under which an item of a list names its part, where the item is one of scikit-learn's tuples."""
    if not isinstance(item, Mapping):
        return None
    if "class_path" in item:
        return "class_path" if "columns" in item else None
    for word in ("estimator", "transformer"):
        if word in item and set(item) & {"name", "columns"}:
            return word
    # the names misspelt: {nmae: rf, estimator: {class_path: …}}
    for word in ("estimator", "transformer"):
        inner = item.get(word)
        if len(item) > 1 and isinstance(inner, Mapping) and ("class_path" in inner or _range_like(inner)):
            return word
    return None


def _misspelt_word(item: Any) -> tuple[str, str] | None:
    """The key of {name: rf, estimatr: {class_path: …}} that was meant to be `estimator` or `transformer`, and which."""
    if isinstance(item, Mapping) and set(item) & {"name", "columns"}:
        for name, value in item.items():
            stands = isinstance(value, Mapping) and ("class_path" in value or _range_like(value))
            if isinstance(name, str) and (stands or (value in ("passthrough", "drop") and len(item) > 1)):
                meant = max(("estimator", "transformer"), key=lambda word: likeness(name, word))
                if likeness(name, meant) >= 0.75:
                    return name, meant
    return None


def _label_of(reference: str, taken: Sequence[str]) -> str:
    label = same = short(reference)
    number = 1
    while label in taken:
        number += 1
        label = f"{same}_{number}"
    return label
