"""A recipe as frozen data: what was understood (`Draft`), and what has no mistakes (`Recipe`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recipeline.document import Document
from recipeline.errors import Key, Problem, RecipeError, did_you_mean
from recipeline.recipe.parts import MISSING, PartSpec, Range, Values


class Part(BaseModel):
    """A section of the recipe: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Pruning(Part):
    """When a trial may stop early. `n_warmup_steps` counts reports of one trial, `n_startup_trials` whole trials."""

    enabled: bool = True
    algorithm: Literal["MedianPruner", "PercentilePruner", "HyperbandPruner", "SuccessiveHalvingPruner", "NopPruner"] = "MedianPruner"
    n_startup_trials: int = Field(default=5, ge=0, le=100_000)
    n_warmup_steps: int = Field(default=0, ge=0, le=1_000_000)


class Tuning(Part):
    """The search: how many trials, judged by what. Its time limit stands in the configuration unless it is the science's."""

    enabled: bool = False  # left out: on where the recipe has ranges
    n_trials: int = Field(default=50, ge=1, le=100_000)
    metric: str | None = Field(default=None, min_length=1)  # the task's first metric
    direction: Literal["maximize", "minimize"] | None = None  # the metric's own
    folds: int = Field(default=5, ge=2, le=1_000)
    pruning: Pruning = Field(default_factory=lambda: Pruning(enabled=False))
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # seconds
    seeds_per_trial: int = Field(default=1, ge=1, le=1_000)
    extra: Mapping[str, Any] = Field(default_factory=dict)  # keys that only the task's Interface can know


@dataclass(frozen=True)
class Draft:
    """A recipe as far as it could be understood: None where a section is missing or wrong, and why in `problems`."""

    document: Document
    name: str | None = None
    seed: int | None = None
    model: PartSpec | None = None
    loader: PartSpec | None = None
    augmenter: PartSpec | None = None
    preprocessor: PartSpec | None = None
    task_type: str | None = None
    interface: Mapping[str, Any] | None = None
    tuning: Tuning | None = None
    metrics: tuple[str, ...] | None = None
    validation: PartSpec | None = None
    evaluator: PartSpec | None = None
    path: Path | None = None
    problems: tuple[Problem, ...] = ()

    def roots(self) -> tuple[PartSpec, ...]:
        """The parts at the places of the grammar, in the order of the grammar."""
        parts = (self.model, self.loader, self.augmenter, self.preprocessor, self.validation, self.evaluator)
        return tuple(part for part in parts if part is not None)

    def specs(self) -> tuple[PartSpec, ...]:
        """Every part that the recipe names, nested ones too."""
        return tuple(spec for part in self.roots() for spec in part.parts())

    def ranges(self) -> tuple[Range, ...]:
        """The search space: ranges of the model, then of the preprocessor."""
        return tuple(found for part in (self.model, self.preprocessor) if part is not None for found in part.ranges())

    def recipe(self) -> Recipe:
        """The whole recipe; RecipeError with every problem."""
        if self.problems:
            raise RecipeError(self.problems)
        assert self.name is not None
        assert self.seed is not None
        assert self.model is not None
        assert self.loader is not None
        assert self.task_type is not None
        assert self.interface is not None
        assert self.tuning is not None
        return Recipe(
            name=self.name,
            seed=self.seed,
            model=self.model,
            loader=self.loader,
            augmenter=self.augmenter,
            preprocessor=self.preprocessor,
            task_type=self.task_type,
            interface=self.interface,
            tuning=self.tuning,
            metrics=self.metrics or (),
            validation=self.validation,
            evaluator=self.evaluator,
            document=self.document,
            path=self.path,
        )


@dataclass(frozen=True)
class Recipe:
    """A recipe without mistakes, as far as one can know without importing what it names.

    interface   `model.data_interface` as written, `task_type` included
    metrics     empty: the task's default
    validation  role `splitter`, its reference is the `method`; None: the task's default
    path        of the file, None where it was text or a mapping
    """

    name: str
    seed: int
    model: PartSpec
    loader: PartSpec
    augmenter: PartSpec | None
    preprocessor: PartSpec | None
    task_type: str
    interface: Mapping[str, Any]
    tuning: Tuning
    metrics: tuple[str, ...]
    validation: PartSpec | None
    evaluator: PartSpec | None
    document: Document
    path: Path | None = None

    def roots(self) -> tuple[PartSpec, ...]:
        """The parts at the places of the grammar, in the order of the grammar."""
        return self.draft().roots()

    def specs(self) -> tuple[PartSpec, ...]:
        """Every part that the recipe names, nested ones too."""
        return self.draft().specs()

    def ranges(self) -> tuple[Range, ...]:
        """The search space: ranges of the model, then of the preprocessor."""
        return self.draft().ranges()

    def draft(self) -> Draft:
        """The same as a draft without problems."""
        return Draft(**{name: getattr(self, name) for name in self.__dataclass_fields__})

    def resolved(self, values: Values = MappingProxyType({})) -> dict[str, Any]:
        """Plain data that are again a valid recipe: ranges replaced as `PartSpec.filled` does, tuning switched off.

        RecipeError for a name that is no range, or a value that is no choice.
        """
        ranges = {found.key: found for found in self.ranges()}
        known = [found.name for found in ranges.values()]
        for name in values:
            if name not in known:
                raise RecipeError(
                    Problem("unknown-key", (name,), "the recipe has no such range", did_you_mean(name, known), file=self.document.file)
                )
        data = _resolved(self.document.data, (), ranges, values)
        if isinstance(data.get("hyperparameter_tuning"), dict):
            data["hyperparameter_tuning"]["enabled"] = False
        data.pop("name", None)
        data.pop("seed", None)
        return {"name": self.name, "seed": self.seed, **data}


def _resolved(raw: Any, key: Key, ranges: Mapping[Key, Range], values: Values) -> Any:
    found = ranges.get(key)
    if found is not None:
        picked = found.pick(values)
        if picked is MISSING:
            return MISSING
        index = found.index_of(picked) if found.type == "categorical" else None
        if index is None:
            return picked
        return _resolved(raw["choices"][index], (*key, "choices", index), ranges, values)
    if isinstance(raw, Mapping):
        filled = {name: _resolved(value, (*key, name), ranges, values) for name, value in raw.items()}
        return {name: value for name, value in filled.items() if value is not MISSING}
    if isinstance(raw, list):
        return [_resolved(value, (*key, index), ranges, values) for index, value in enumerate(raw)]
    return raw
