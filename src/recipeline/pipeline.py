"""The one fitted pipeline: augment → check the contract → preprocess → model → rows of output.

`Pipeline.predict` is the only road to a prediction: evaluation, batch and server all take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline import boosters
from recipeline.errors import RecipelineError, TrainingFailed

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.contracts import FitContext, Fold, Selected
    from recipeline.schema import InputSchema


class Pipeline:
    """A model with everything that stands before it.

    task          what a row of output is
    schema        the input contract
    model         the estimator; fitted once `fit` has returned
    preprocessor  a transformer, or None
    augmenter     stateless, or None
    facts         what the artifact knows beside the parts: run_id, name, metrics, hpo …
    """

    def __init__(
        self,
        *,
        task: Any,
        schema: InputSchema,
        model: Any,
        preprocessor: Any = None,
        augmenter: Any = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.task, self.schema = task, schema
        self.model, self.preprocessor, self.augmenter = model, preprocessor, augmenter
        self.facts: dict[str, Any] = facts or {}

    def __repr__(self) -> str:
        run = f" of run {self.run_id}" if self.run_id else ""
        return f"<Pipeline {type(self.model).__name__}{run}, {len(self.schema.features)} features>"

    @property
    def run_id(self) -> str:
        return str(self.facts.get("run_id", ""))

    @property
    def version(self) -> str:
        """What an answer names as the version of the model: the recipe's name and the run."""
        return f"{self.facts.get('name', 'model')}-{self.run_id[:8] or 'unsaved'}"

    def fit(
        self,
        selected: Selected,
        context: FitContext,
        *,
        validation: Selected | None = None,
        inner: Callable[[Selected, int], tuple[Fold, ...]] | None = None,
    ) -> Pipeline:
        """Fit preprocessor and model on the rows given; returns self.

        validation  rows held back; the model gets them transformed by what was fitted on the others
        inner       cuts folds inside the rows that are fitted on

        Raises TrainingFailed, with the estimator's own words, when one of the parts raises.
        """
        part = self.preprocessor
        try:
            if part is None:
                fitted, ready = selected, selected.with_features(_laid_out(selected.X, self.model))
            elif getattr(part, "online", False):
                if hasattr(part, "expect"):
                    part.expect(self.schema)
                fitted, ready, context = selected, selected, replace(context, preprocessor=part)
            else:
                if hasattr(part, "expect"):
                    part.expect(self.schema)
                mask = part.training_rows(selected.X) if hasattr(part, "training_rows") else None
                fitted = selected if mask is None or bool(np.all(mask)) else selected.take(np.flatnonzero(mask))
                ready = fitted.with_features(_fit_transform(part, fitted))
                if hasattr(part, "reads"):
                    self.schema = self.schema.only(part.reads())
            if validation is not None:
                online = getattr(part, "online", False)
                context = replace(context, validation=validation if online else validation.with_features(self.features(validation)))
            if inner is not None:
                context = replace(context, inner=partial(inner, fitted))
            part = self.model
            if hasattr(part, "expect"):
                part.expect(self.schema)
            self.model = self.task.fit(part, ready.with_features(boosters.plain_names(ready.X, part)), context)
        except (RecipelineError, MemoryError):
            raise
        except Exception as error:  # an estimator may raise anything; its words reach the user with a slug
            raise TrainingFailed(words(error), hint="see the log for the traceback", where=type(part).__name__) from error
        return self

    def predict(self, rows: Any, *, augmented: bool = False) -> pd.DataFrame:
        """The output frame for raw rows: key columns, then what the task says of each.

        augmented  the rows went through the augmenter before, as those of training did

        Raises DataError where the rows break the input contract; extra columns are ignored.
        """
        frame = rows if augmented or self.augmenter is None else self._augmented(rows)
        return self.predict_selected(self.task.select(self.schema.conform(frame), self.schema, targets=False))

    def _augmented(self, rows: Any) -> Any:
        with foreign(self.augmenter, "prediction-failed"):
            frame = self.augmenter.augment(rows, online=True)
        if getattr(self.task, "streams", "") == "rows" and len(frame) != len(rows):
            raise TrainingFailed(
                f"{len(rows)} rows went in and {len(frame)} came out", slug="row-count", where=type(self.augmenter).__name__
            )
        return frame

    def predict_selected(self, selected: Selected) -> pd.DataFrame:
        """The output frame for rows that were checked and taken apart before."""
        selected = selected.with_features(self.features(selected))
        with _answering(self.model):
            output: pd.DataFrame = self.task.rows(self.model, selected, self.schema)
        return output

    def features(self, selected: Selected) -> Any:
        """What the model is given for rows that were checked and taken apart before: preprocessed, (n, d).

        What an online preprocessor has learned is the model's to use: it gets the rows as it got them in training.
        """
        part = None if getattr(self.preprocessor, "online", False) else self.preprocessor
        with _answering(part):
            X = _laid_out(selected.X, self.model) if part is None else part.transform(_laid_out(selected.X, part))
        return boosters.plain_names(X, self.model)


def _fit_transform(preprocessor: Any, selected: Selected) -> Any:
    """Supervised encoders cross-fit in `fit_transform`, so it is not the same as fit, then transform."""
    X = _laid_out(selected.X, preprocessor)
    if hasattr(preprocessor, "fit_transform"):
        return preprocessor.fit_transform(X, selected.y)
    return preprocessor.fit(X, selected.y).transform(X)


def _laid_out(X: Any, part: Any) -> Any:
    """The same frame, its floats in one block in C order: linear algebra differs in the last digit with the layout.

    A part that brings its own layout says `any_layout = True`.
    """
    if getattr(part, "any_layout", False) or not hasattr(X, "dtypes") or not all(dtype == np.float64 for dtype in X.dtypes):
        return X
    values = X.to_numpy()
    if values.flags.c_contiguous:
        return X
    return type(X)(np.ascontiguousarray(values), index=X.index, columns=X.columns)


@contextmanager
def _answering(part: Any) -> Iterator[None]:
    """As in fit: whatever a fitted part raises becomes one line with a slug."""
    try:
        yield
    except (RecipelineError, MemoryError):
        raise
    except Exception as error:
        raise TrainingFailed(words(error), slug="prediction-failed", where=type(part).__name__) from error


@contextmanager
def foreign(part: Any, slug: str, kind: type[RecipelineError] = TrainingFailed) -> Iterator[None]:
    """Whatever a part that is not ours raises becomes one line with a slug and the name of the part, not a bug of ours."""
    try:
        yield
    except (RecipelineError, MemoryError):
        raise
    except Exception as error:
        if type(part).__module__.partition(".")[0] == "recipeline":
            raise
        raise kind(words(error), hint="see the log for the traceback", slug=slug, where=type(part).__name__) from error


def words(error: BaseException) -> str:
    """The first line of what a foreign exception says, with its type."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
