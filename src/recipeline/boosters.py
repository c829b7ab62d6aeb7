"""What XGBoost, LightGBM and CatBoost need that scikit-learn's own estimators do not.

None of them is imported here: an estimator is recognised by the package of its class, wherever it stands inside a model.
What they take and by which other names is in `signatures`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

TRUSTED = (
    "xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor",
    "xgboost.sklearn.XGBRFClassifier", "xgboost.sklearn.XGBRFRegressor",
    "collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor",
    "catboost.core.CatBoost", "catboost.core.CatBoostClassifier", "catboost.core.CatBoostRegressor",
)  # fmt: skip
"""Types that a saved booster is rebuilt from. Its trees are the library's own bytes inside the skops file: UBJSON, text, cbm."""

_SUPPLIED: Mapping[str, tuple[tuple[tuple[str, ...], Any], ...]] = MappingProxyType(
    {
        # Its sums would else differ in the last digits with the number of threads, so with the machine.
        "lightgbm": ((("verbosity",), -1), (("deterministic",), True)),
        # It would else print a line per tree, and leave a folder catboost_info where the program was started.
        "catboost": ((("verbose", "silent", "logging_level", "verbose_eval"), False), (("allow_writing_files",), False)),
    }
)
"""By library: (an argument and those that exclude it, the value it gets where a recipe gives none of them)."""

_EARLY: Mapping[str, str] = MappingProxyType(
    {"xgboost": "early_stopping_rounds", "lightgbm": "early_stopping_round", "catboost": "early_stopping_rounds"}
)
"""By library: the argument that stops fitting by rows held back, in the constructor's own word."""

_NO_FILES = ("a recipe does not say where files are read and written", "remove it")
_FILES = ("allow_writing_files", "train_dir", "save_snapshot", "snapshot_file", "snapshot_interval", "input_borders", "output_borders")
_UNUSABLE: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "lightgbm": {"categorical_feature": ("the library ignores it in the constructor", "leave categories to the preprocessor")},
        "catboost": {
            **dict.fromkeys(("od_wait", "od_type", "od_pval"), ("of its detectors only one is used here", "write early_stopping_rounds")),
            **dict.fromkeys(_FILES, _NO_FILES),
        },
    }
)
"""By library: arguments that could not do here what they say, why, and what to do."""

_REFUSED_IN_NAMES: Mapping[str, str] = MappingProxyType({"xgboost": r"[\[\]<]", "lightgbm": r'[\[\]{}":,\s]'})
_ANY_REFUSED = re.compile("|".join(_REFUSED_IN_NAMES.values()))
_THREADS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "xgboost": ("n_jobs", "nthread"),
        "lightgbm": ("n_jobs", "num_threads", "num_thread", "nthread", "nthreads"),
        "catboost": ("thread_count",),
    }
)
"""By library: the argument that says how many threads, and its aliases."""


def library(made: type) -> str | None:
    """Which of the three libraries a class comes from, a subclass of one of theirs included."""
    return next((top for base in made.__mro__ if (top := base.__module__.partition(".")[0]) in _THREADS), None)


def supplied(made: type, given: Collection[str]) -> dict[str, Any]:
    """Arguments that the engine adds: quiet, no files, the same result on every machine.

    given  names of the arguments that the recipe gives, aliases by the name they stand for
    """
    table = _SUPPLIED.get(library(made) or "", ())
    return {names[0]: value for names, value in table if not any(name in given for name in names)}


def unusable(made: type, name: str, *, nested: bool, held_back: bool) -> tuple[str, str] | None:
    """Why an argument cannot do here what it says, and what to do; None for all others.

    nested     the booster stands inside another estimator, which hands no rows to stop by on to it
    held_back  the validation method holds rows of the training side back
    """
    known = library(made) or ""
    if name == _EARLY.get(known) and nested:
        return "it needs rows held back from fitting, and the estimator around it hands none on", "search the number of trees instead"
    if name == _EARLY.get(known) and not held_back:
        return "it stops only by rows that are held back from fitting", "add calibration_size: 0.2 to evaluation.validation"
    return _UNUSABLE.get(known, {}).get(name)


def inside(model: Any) -> list[Any]:
    """The boosters of a model, at any depth of its parameters; the model itself where it is one."""
    found: list[Any] = []
    seen: set[int] = set()
    todo = [model]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (list, tuple)):
            todo.extend(value)
        elif isinstance(value, Mapping):
            todo.extend(value.values())
        elif not isinstance(value, type) and library(type(value)):
            found.append(value)
        elif not isinstance(value, type) and callable(getattr(value, "get_params", None)):
            todo.extend(held(value))
    return found


def held(part: Any) -> list[Any]:
    """The parameters of an estimator, or its attributes where its constructor takes `*args`, which scikit-learn refuses to list."""
    try:
        return list(part.get_params(deep=False).values())
    except RuntimeError:
        return list(vars(part).values())


def share_cores(model: Any, among: int) -> None:
    """Give each booster of an unfitted model its share of the cores, where nobody said how many threads it takes.

    among  how many models are fitted at the same time. Each would else take all cores; together they would wait for each other
    """
    import joblib

    threads = max(1, joblib.cpu_count() // among)
    for booster in inside(model):
        names = _THREADS[library(type(booster)) or ""]
        given = booster.get_params()
        if all(given.get(name) is None for name in names):
            booster.set_params(**{names[0]: threads})


def plain_names(X: Any, model: Any) -> Any:
    """The same frame under column names that the boosters of the model accept; anything else as it is.

    XGBoost refuses `[ ] <`, LightGBM what has a meaning in JSON, and it turns spaces into `_` and then may find two columns
    of one name. Those characters become `_` here, and what would be there twice gets a number.
    """
    columns = getattr(X, "columns", None)
    if columns is None or not _odd(names := tuple(columns)):
        return X
    libraries = {library(type(booster)) for booster in inside(model)} & _REFUSED_IN_NAMES.keys()
    if not libraries:
        return X
    renamed = X.copy(deep=False)
    renamed.columns = _renamed(names, frozenset(libraries))
    return renamed


@lru_cache(maxsize=64)
def _odd(names: tuple[Any, ...]) -> bool:
    return any(isinstance(name, str) and _ANY_REFUSED.search(name) for name in names)


@lru_cache(maxsize=64)
def _renamed(names: tuple[Any, ...], libraries: Iterable[str]) -> list[Any]:
    refused = re.compile("|".join(_REFUSED_IN_NAMES[name] for name in sorted(libraries)))
    wanted = [refused.sub("_", name) if isinstance(name, str) else name for name in names]
    taken = {name for name, want in zip(names, wanted, strict=True) if name == want}  # what needs no change keeps its name
    found: list[Any] = []
    for name, want in zip(names, wanted, strict=True):
        unique, number = want, 1
        while name != want and unique in taken:
            number += 1
            unique = f"{want}_{number}"
        taken.add(unique)
        found.append(unique)
    return found
