"""From a document to a draft, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recipeline.document import Document, validation_problems
from recipeline.errors import Key
from recipeline.recipe.arguments import Arguments
from recipeline.recipe.data import Draft, Pruning, Tuning
from recipeline.recipe.grammar import ARGUMENTS, BESIDE, EVALUATION, HOMES, MODEL, NAMES, TOP, TUNING
from recipeline.recipe.keys import Keys, likeness
from recipeline.recipe.parts import MISSING, PartSpec, Range


class Reader:
    """Takes a document apart by the grammar; each mistake is noted and the reading goes on."""

    def __init__(self, document: Document, path: Path | None) -> None:
        self.document, self.path = document, path
        self.keys = Keys(document)
        self.arguments = Arguments(self.keys)

    def draft(self) -> Draft:
        data = self.document.data
        unknown = self.keys.unknown(data, TOP, ())
        name = self.name(data)
        seed = self.seed(data)
        parts: dict[str, Any] = {}
        model = self.keys.section(data, "model", (), required="model" not in unknown.values())
        before = len(self.keys.problems)
        if model is not None:
            parts = self.model(model)
        sound = model is not None and len(self.keys.problems) == before
        space = [found for part in (parts.get("model"), parts.get("preprocessor")) if part is not None for found in part.ranges()]
        tuning = self.tuning(data, space, sound=sound, misspelt="hyperparameter_tuning" in unknown.values())
        evaluation = self.keys.section(data, "evaluation", ())
        judged = self.evaluation(evaluation) if evaluation is not None else {}
        return Draft(
            document=self.document,
            name=name,
            seed=seed,
            tuning=tuning,
            path=self.path,
            problems=tuple(sorted(dict.fromkeys(self.keys.problems), key=lambda p: (p.line, p.column))),
            **parts,
            **judged,
        )

    def name(self, data: Mapping[str, Any]) -> str | None:
        if data.get("name") is None:
            return self.path.stem if self.path is not None else "recipe"
        name = data["name"]
        if not isinstance(name, str):
            self.keys.report("bad-value", ("name",), f"{name!r} is not text", "put it in quotes", "value")
        elif not name.strip() or not name.isprintable() or len(name) > 200:
            self.keys.report("bad-value", ("name",), "a name is one line of at most 200 characters", "shorten it", "value")
        else:
            return name
        return None

    def seed(self, data: Mapping[str, Any]) -> int | None:
        seed = data.get("seed")
        if seed is None:
            return 42
        if isinstance(seed, bool) or not isinstance(seed, int):
            self.keys.report("bad-value", ("seed",), f"{seed!r} is not a whole number", "write seed: 42", "value")
        elif not 0 <= seed < 2**32:
            self.keys.report("bad-value", ("seed",), f"{seed} is out of range", "it must be at least 0 and less than 2**32", "value")
        else:
            return seed
        return None

    def model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        key: Key = ("model",)
        unknown = self.keys.unknown(model, (*NAMES, *ARGUMENTS, *MODEL), key)
        parts: dict[str, Any] = {"model": self.arguments.part(model, key, "model", (), unknown=unknown)}
        for role, prefix in (("loader", None), ("augmenter", None), ("preprocessor", ("preprocessor",))):
            section = self.keys.section(model, role, key, required=role == "loader" and role not in unknown.values())
            if section is not None:
                where = (*key, role)
                wrong = self.keys.unknown(section, (*NAMES, *ARGUMENTS, *BESIDE.get(role, ())), where)
                parts[role] = self.arguments.part(section, where, role, prefix, unknown=wrong)
        interface = self.keys.section(model, "data_interface", key, required="data_interface" not in unknown.values())
        if interface is not None:
            parts["interface"] = dict(interface)
            parts["task_type"] = self.keys.word(interface, "task_type", (*key, "data_interface"), "classification")
        return parts

    def evaluation(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        key: Key = ("evaluation",)
        self.keys.unknown(evaluation, EVALUATION, key)
        judged: dict[str, Any] = {"metrics": self.metrics(evaluation)}
        validation = self.keys.section(evaluation, "validation", key)
        if validation:
            where = (*key, "validation")
            method = self.keys.word(validation, "method", where, "train_test_split")
            arguments = {
                name: self.arguments.value(value, (*where, name), None)
                for name, value in validation.items()
                if name != "method" and self.keys.named(name, where)
            }
            if method is not None:
                judged["validation"] = PartSpec("splitter", method, arguments, where, where, (*where, "method"))
        evaluator = self.keys.section(evaluation, "evaluator", key)
        if evaluator is not None:
            where = (*key, "evaluator")
            unknown = self.keys.unknown(evaluator, (*NAMES, *ARGUMENTS), where)
            judged["evaluator"] = self.arguments.part(evaluator, where, "evaluator", None, unknown=unknown)
        return judged

    def metrics(self, evaluation: Mapping[str, Any]) -> tuple[str, ...] | None:
        metrics = evaluation.get("metrics")
        key: Key = ("evaluation", "metrics")
        if metrics is None:
            return ()
        if not isinstance(metrics, list) or not metrics:
            self.keys.report("bad-value", key, "a list of names is expected", "write metrics: [accuracy, roc_auc]", "value")
            return None
        for index, metric in enumerate(metrics):
            if not isinstance(metric, str) or not metric:
                self.keys.report("bad-value", (*key, index), f"{metric!r} is not the name of a metric", at="value")
            elif metric in metrics[:index]:
                self.keys.report("duplicate-value", (*key, index), f"{metric} is asked for twice", "keep one of them", "value")
        return tuple(metric for metric in metrics if isinstance(metric, str))

    def tuning(self, data: Mapping[str, Any], space: Sequence[Range], *, sound: bool, misspelt: bool) -> Tuning | None:
        key: Key = ("hyperparameter_tuning",)
        section = self.keys.section(data, "hyperparameter_tuning", ())
        if section is None:
            if data.get("hyperparameter_tuning") is None:
                if misspelt:
                    return None
                self.untuned(space, "add hyperparameter_tuning: {enabled: true}, or give the range a default")
                return Tuning()
            return None
        before = len(self.keys.problems)
        known, extra = self.tuning_keys(section, key)
        pruning = known.get("pruning")
        if isinstance(pruning, Mapping):
            unknown = self.keys.unknown(pruning, tuple(Pruning.model_fields), (*key, "pruning"))
            known["pruning"] = {name: value for name, value in pruning.items() if name not in unknown and name in Pruning.model_fields}
        explicit = known.get("enabled")
        known["enabled"] = bool(space) if explicit is None else explicit
        try:
            tuning = Tuning(**known, extra=extra)
        except ValidationError as error:
            for problem in validation_problems(error, known, key, Tuning):
                self.keys.add(problem)
            return None
        if explicit is True and not space and sound:
            self.keys.report(
                "ignored-section",
                (*key, "enabled"),
                "there is no range to tune",
                "write a range in model.hyperparameters, or enabled: false",
            )
        return tuning if len(self.keys.problems) == before else None

    def tuning_keys(self, section: Mapping[str, Any], key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keys of ours, and keys that may be the task's; a key that is nearly one of ours is a mistake already here."""
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in section.items():
            if name in TUNING:
                if value is not None:  # a null section is an empty one
                    known[name] = value
            elif not isinstance(name, str) or name in HOMES or _typo(name, TUNING):
                self.keys.unknown({**dict.fromkeys(known), name: value}, TUNING, key)
            else:
                extra[name] = value
        return known, extra

    def untuned(self, space: Sequence[Range], hint: str) -> None:
        for found in space:
            if found.default is MISSING:
                self.keys.report("range-without-tuning", found.key, "a range, but tuning is not enabled", hint)


def _typo(word: str, known: Sequence[str]) -> bool:
    return any(likeness(word, name) >= 0.75 for name in known)
