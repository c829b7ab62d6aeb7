"""Fitting a foreign estimator: weights and rows held back reach it under its own names, or are an error."""

from __future__ import annotations

import inspect
from typing import Any

from recipeline.contracts import FitContext, Selected, takes_context
from recipeline.errors import Problem, RecipeError


def fit_estimator(model: Any, selected: Selected, context: FitContext) -> Any:
    arguments: dict[str, Any] = {}
    if selected.weight is not None:
        arguments[weight_argument(model)] = selected.weight
    if takes_context(model):
        arguments["context"] = context
    elif _stops_early(model):
        arguments |= _watched(model, context)
    fitted = model.fit(selected.X, selected.y, **arguments)
    return model if fitted is None else fitted


_PATIENCE = ("early_stopping_rounds", "early_stopping_round", "od_wait", "od_pval", "use_best_model")


def _stops_early(model: Any) -> bool:
    """Whether the model was told to stop when rows that it is not fitted on say so (the three boosters, scikit-learn's histograms)."""
    takes = inspect.signature(model.fit).parameters
    if "X_val" in takes:
        return getattr(model, "early_stopping", None) is True
    return "eval_set" in takes and any(model.get_params().get(name) for name in _PATIENCE)


def _watched(model: Any, context: FitContext) -> dict[str, Any]:
    """The arguments of `fit` that hand over the rows held back; histograms of scikit-learn hold back their own where there are none."""
    takes = inspect.signature(model.fit).parameters
    held = context.validation
    if held is None and "X_val" in takes:
        return {}
    if held is None:
        raise RecipeError(
            Problem(
                "no-validation",
                ("model", "hyperparameters", next(name for name in _PATIENCE if model.get_params().get(name))),
                f"{type(model).__name__} stops early only by rows that are held back from fitting",
                "add calibration_size: 0.2 to evaluation.validation",
            )
        )
    if "X_val" in takes:
        return {"X_val": held.X, "y_val": held.y} | ({} if held.weight is None else {"sample_weight_val": held.weight})
    if "eval_X" in takes:
        return {"eval_X": held.X, "eval_y": held.y} | ({} if held.weight is None else {"eval_sample_weight": [held.weight]})
    quiet = {"verbose": False} if "verbose" in takes else {}
    return {"eval_set": [(held.X, held.y)], **quiet}


def weight_argument(model: Any) -> str:
    """The name under which `model.fit` takes sample weights.

    Raises RecipeError where it takes none: weights that are asked for and ignored would be a silent mistake.
    """
    found = finds_weight(model)
    if found is None:
        raise RecipeError(
            Problem(
                "no-sample-weight",
                ("model", "data_interface", "sample_weight_col"),
                f"{type(model).__name__} takes no sample weights in fit",
                "leave sample_weight_col out, or choose a model that takes them",
            )
        )
    return found


def finds_weight(model: Any) -> str | None:
    parameters = inspect.signature(model.fit).parameters
    steps = getattr(model, "steps", None)
    if steps:  # a Pipeline hands `<step>__sample_weight` on to that step
        name, last = steps[-1]
        inner = finds_weight(last)
        return None if inner is None else f"{name}__{inner}"
    inside = [estimator for _, estimator in getattr(model, "estimators", None) or [] if not isinstance(estimator, str)]
    inside += [part for key in ("estimator", "base_estimator", "regressor") if hasattr(part := getattr(model, key, None), "fit")]
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if "sample_weight" not in parameters and not (open_ended and inside):
        return None
    return "sample_weight" if all(finds_weight(part) == "sample_weight" for part in inside) else None


def refuse_unused(model: Any, context: FitContext) -> None:
    """Rows that are held back and used by nothing are lost, and nobody would notice."""
    if context.validation is not None and not takes_context(model) and not _stops_early(model):
        raise RecipeError(
            Problem(
                "ignored",
                ("evaluation", "validation", "calibration_size"),
                f"it holds rows back, and {type(model).__name__} has no use for them",
                "leave it out, or add early stopping to the model, data_interface.calibration or decision_threshold: tune",
            )
        )
