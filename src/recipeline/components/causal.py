"""The task `causal`: what a treatment changes, for each row (uplift, conditional average treatment effects).

A model learns from rows that were treated or not and says, for a row that nobody treated yet, how much the outcome would
change. Which treatment a row got is told to the model while it is fitted, never as a feature: at prediction there is none.

Effects are causal where the treatment was randomised, or depends on nothing but the features (and `propensity`); no figure
of merit can show that. `docs/howto/uplift.md` says when that may be believed.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, field_validator, model_validator

from recipeline.components.columns import codes_of, keyed, length_of, no_nulls, require_columns, require_frame, target_type
from recipeline.components.fitting import finds_weight, refuse_unused, weight_argument
from recipeline.components.metrics import Observed
from recipeline.components.regression import refuse_endless
from recipeline.components.tabular import Tabular, TabularInterface
from recipeline.components.uplift import UPLIFT
from recipeline.contracts import FitContext, Metric, Output, Selected, takes_context
from recipeline.errors import DataError, Problem, RecipeError, TrainingFailed, did_you_mean, nearest
from recipeline.schema import InputSchema, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("recipeline")

CONTROLS: tuple[Any, ...] = ("control", "Control", "CONTROL", False, 0, "0")
"""Values that say by themselves that they are the control group."""
ARMS_MOST = 50
"""More treatments than this is a dose or an identifier."""
STRATUM_LEAST = 10
"""Rows that each pair of arm and outcome must have for folds to keep the shares of both, not of the arms alone."""


class CausalInterface(TabularInterface):
    """`data_interface` of `task_type: causal`.

    target_col      the outcome: a number, or one of two values (true and false, 0 and 1, or two texts)
    treatment_col   who got what: one value for the controls and one for each treatment; not a feature, not needed at prediction
    control         the value that stands for the controls; may be left out where it is `control`, 0 or false
    propensity      probability of being treated, where it is known: a number (the same for all, as in a trial), or a column
                    of them (not a feature, not needed at prediction). Without it the arms are compared as they are, and
                    learners that need a propensity estimate their own. One treatment only
    positive_class  which of two outcomes is 1; the last of the sorted ones by default
    """

    task_type: Literal["causal"] = "causal"
    target_col: str
    treatment_col: str
    control: Any = None
    propensity: Any = None
    positive_class: Any = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target_col,)

    @property
    def aside(self) -> tuple[str, ...]:
        column = (self.propensity,) if isinstance(self.propensity, str) else ()
        return (*super().aside, self.treatment_col, *column)

    @field_validator("control", "positive_class")
    @classmethod
    def _is_a_value(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | int | float | bool):
            raise ValueError("one value of the column expected: text, a number, true or false")
        return value

    @field_validator("propensity")
    @classmethod
    def _is_a_probability(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or isinstance(value, str) or (number and 0 < value < 1):
            return value
        raise ValueError("a number between 0 and 1, or the name of a column of them, expected")

    @model_validator(mode="after")
    def _the_treatment_has_one_role(self) -> Self:
        others: dict[str, tuple[str | None, ...]] = {"target_col": self.targets, "entity_cols": self.entity_cols}
        others |= {key: (getattr(self, key),) for key in ("timestamp_col", "group_col", "sample_weight_col")}
        others["propensity"] = (self.propensity if isinstance(self.propensity, str) else None,)
        for key, columns in others.items():
            if self.treatment_col in columns:
                raise ValueError(f"{self.treatment_col} is the treatment and cannot be in {key} as well")
            if key != "propensity" and others["propensity"][0] is not None and others["propensity"][0] in columns:
                raise ValueError(f"{self.propensity} is the propensity and cannot be in {key} as well")
        return self


class Causal(Tabular):
    """The effect of a treatment on each row: one number, or one for each of several treatments.

    Models take `fit(X, y, treatment=…)` and predict effects (n, t): `t_learner` and `s_learner` over any estimator, or
    CausalML's meta-learners. Splits and inner folds keep the shares of the arms, and of two outcomes in each arm, unless
    the recipe says otherwise.
    """

    Interface: ClassVar[type[BaseModel]] = CausalInterface
    metrics: ClassVar[tuple[Metric, ...]] = UPLIFT
    evaluator: ClassVar[str] = "uplift_evaluator"

    @staticmethod
    def suits(model: type[Any]) -> Problem | None:
        """Why a class cannot be a model of this task: its `fit` takes no treatment."""
        return None if "treatment" in inspect.signature(model.fit).parameters else _no_treatment(model)

    def __init__(self, interface: CausalInterface) -> None:
        self.interface: CausalInterface = interface

    @classmethod
    def example(cls) -> dict[str, Any]:
        return {"target_col": "bought", "treatment_col": "coupon"}

    @classmethod
    def example_data(cls) -> pd.DataFrame:
        """Eighty rows of a randomised trial."""
        random = np.random.default_rng(7)
        a, b = random.normal(size=(2, 80))
        coupon = np.arange(80) % 2
        bought = (a + coupon * b + random.normal(size=80) > 0).astype(np.int64)
        return pd.DataFrame({"a": a, "b": b, "coupon": coupon, "bought": bought})

    # --- the data ---

    def describe(self, data: Any) -> InputSchema:
        """As for every table; the arms are kept in `target`, the controls first.

        Raises DataError as well for a treatment that is null, a dose, one value only, or without a control group.
        """
        require_frame(data)
        require_columns(data, "treatment_col", (self.interface.treatment_col,))
        if isinstance(self.interface.propensity, str):
            require_columns(data, "propensity", (self.interface.propensity,))
        return super().describe(data)

    def arms(self, schema: InputSchema) -> tuple[Any, ...]:
        """Values of the treatment column in the order of their codes, the controls first."""
        return tuple(schema.target["treatment"]["arms"])

    def output(self, schema: InputSchema) -> Output:
        return Output(self._present_keys(schema), self._columns(schema))

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        """As for every table, and with targets in `extras`:

        treatment  (n,) codes, 0 for the controls and 1 … t in the order of `arms`
        propensity (n,) probability of being treated, where it is known
        strata     (n,) text, what splits keep the shares of
        """
        selected = super().select(data, schema, targets=targets)
        if not targets:
            return selected
        treatment = self._arm_codes(data, schema)
        extras: dict[str, Any] = {"treatment": treatment, "strata": self._strata(selected, treatment, schema)}
        if self.interface.propensity is not None:
            extras["propensity"] = self._propensity(data)
        return replace(selected, extras={**selected.extras, **extras})

    # --- the model ---

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted model; it is told the treatment, the outcome, and what it takes of weights, propensity and seed.

        Raises RecipeError for a model that takes no treatment, DataError where an arm has no row to fit on.
        """
        if problem := self.suits(type(model)):
            raise RecipeError(problem)
        takes = inspect.signature(model.fit).parameters
        if getattr(model, "control_name", 0) != 0:
            raise RecipeError(_own_control(model))
        refuse_unused(model, context)
        treatment = np.asarray(selected.extras["treatment"])
        present = np.unique(treatment)
        if len(present) < 2 or present[0] != 0 or present[-1] != len(present) - 1:
            raise DataError(
                f"of the arms only number {', '.join(map(str, present))} (0 is the control) is among the {len(treatment)} rows to fit on",
                hint="give more rows of each arm, or stratify the split",
                slug="missing-arm",
            )
        arguments: dict[str, Any] = {"treatment": treatment}
        if selected.weight is not None:
            _require_weights(model)
            arguments[weight_argument(model)] = selected.weight
        known = selected.extras.get("propensity")
        # An X-learner asks for propensities at prediction, too, where a column of them need not be there: it learns its own.
        if known is not None and "p" in takes and not (isinstance(self.interface.propensity, str) and _is_x_learner(model)):
            arguments["p"] = {1: np.asarray(known)}
        quiet = {"seed": context.seed, "random_state": context.seed, "verbose": False, "context": context}
        arguments |= {name: value for name, value in quiet.items() if name in takes and (name != "context" or takes_context(model))}
        with _undisturbed():
            fitted = model.fit(X=selected.X, y=selected.y, **arguments)
        return model if fitted is None else fitted

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Keys, then `effect`, or `effect_<treatment>` for several treatments."""
        n = length_of(selected.X)
        names = self._columns(schema)
        effects = np.empty((0, len(names)))
        if n:
            known = self.interface.propensity
            constant = known is not None and not isinstance(known, str) and _is_x_learner(model)
            with _undisturbed():
                said = model.predict(selected.X, p={1: np.full(n, float(known))}) if constant else model.predict(selected.X)
            effects = np.asarray(said, dtype=np.float64).reshape(n, -1)
            if effects.shape[1] != len(names):
                raise TrainingFailed(
                    f"predict gave {effects.shape[1]} effects for {len(names)} treatments", where=type(model).__name__, slug="wrong-shape"
                )
            refuse_endless(effects)
        columns = keyed(selected)
        for position, name in enumerate(names):
            columns[name] = effects[:, position]
        return pd.DataFrame(columns, copy=False)

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """The average effect for everybody, which ranks nobody: the figures of targeting at random."""
        from recipeline.components.metalearners import ConstantEffect

        return {"average_effect": ConstantEffect()}

    def observed(self, output: pd.DataFrame, selected: Selected, schema: InputSchema) -> Observed:
        """What was and what was said, as the metrics take it: `actual` (n, 3) and `predicted` (n, t) of `components.uplift`.

        Without `treatment` in the extras it is read from the output, where the table of predictions has it.
        """
        treatment = selected.extras.get("treatment")
        treatment = self._arm_codes(output, schema) if treatment is None else np.asarray(treatment)
        known = selected.extras.get("propensity")
        inverse = np.ones(len(treatment)) if known is None else 1 / np.where(treatment == 0, 1 - np.asarray(known), np.asarray(known))
        actual = np.column_stack([np.asarray(selected.y, dtype=np.float64), treatment, inverse])
        predicted = output[list(self._columns(schema))].to_numpy(dtype=np.float64)
        return Observed(actual, predicted, output, weight=selected.weight, targets=tuple(schema.target["names"]))

    # --- columns ---

    def _columns(self, schema: InputSchema) -> tuple[str, ...]:
        treatments = self.arms(schema)[1:]
        return ("effect",) if len(treatments) == 1 else tuple(f"effect_{arm}" for arm in treatments)

    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        name = self.interface.target_col
        arms = self._arms(data)
        values = data[name]
        no_nulls(name, values)
        dtype = target_type(values)
        if dtype in {"datetime", "datetime_utc"}:
            raise DataError(f"outcome {name!r} holds time stamps", hint="an outcome is a number or one of two values", slug="bad-target")
        different = values.drop_duplicates().tolist()
        if len(different) < 2:
            raise DataError(f"outcome {name!r} is {different[0]!r} in every row", hint="no effect can be seen in it", slug="one-class")
        target: dict[str, Any] = {"names": [name], "dtype": dtype, "treatment": arms}
        if dtype in {"string", "bool"} or set(different) == {0, 1}:
            if len(different) > 2:
                raise DataError(
                    f"outcome {name!r} holds {len(different)} different texts",
                    hint="a number or one of two values expected",
                    slug="bad-target",
                )
            plain = sorted(str(one) if dtype == "string" else bool(one) if dtype == "bool" else int(one) for one in different)
            return target | {"classes": self._ordered(plain)}
        if self.interface.positive_class is not None:
            raise DataError(f"positive_class needs two outcomes, and {name!r} holds numbers", hint="leave it out", slug="bad-target")
        return target

    def _ordered(self, outcomes: list[Any]) -> list[Any]:
        """Two outcomes, the one that counts as 1 last."""
        wanted = self.interface.positive_class
        if wanted is None:
            return outcomes
        if not any(_same(wanted, one) for one in outcomes):
            raise DataError(
                f"positive_class {wanted!r} is not an outcome of {self.interface.target_col!r}",
                hint=f"the outcomes are {outcomes[0]!r} and {outcomes[1]!r}",
                slug="bad-target",
            )
        return sorted(outcomes, key=lambda one: _same(wanted, one))

    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[Any]:
        """Codes 0 and 1 (n,) of two outcomes, else the numbers."""
        name = self.interface.target_col
        values = data[name]
        no_nulls(name, values)
        if "classes" in schema.target:
            codes = codes_of(np.array(schema.target["classes"], dtype=object), values.to_numpy(dtype=object))
            if (codes < 0).any():
                unknown = values.to_numpy()[codes < 0]
                raise DataError(
                    f"outcome {name!r}: {unknown[0]!r} was not there in training ({len(unknown)} rows)",
                    hint=f"training had {' and '.join(str(one) for one in schema.target['classes'])}",
                    slug="unknown-class",
                )
            return codes.astype(np.int64)
        try:
            numbers = values.to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"outcome {name!r}: float64 expected, got {values.dtype}", slug="bad-target") from error
        if not np.isfinite(numbers).all():
            raise DataError(f"outcome {name!r}: finite numbers expected, got an infinite one", slug="bad-target")
        return numbers

    def _arms(self, data: pd.DataFrame) -> dict[str, Any]:
        """Name, type and values of the treatment column, the controls first."""
        name = self.interface.treatment_col
        values = data[name]
        _no_null_treatments(name, values)
        dtype = dtype_of(values)
        raw = values.drop_duplicates().tolist()
        if dtype == "float64" and all(float(one).is_integer() for one in raw):
            dtype, raw = "int64", [int(one) for one in raw]
        if dtype not in {"string", "int64", "bool"}:
            raise DataError(
                f"treatment {name!r} holds {dtype} values", hint="one value for the controls and one for each treatment expected",
                slug="bad-treatment",
            )  # fmt: skip
        kind: type[Any] = {"string": str, "int64": int, "bool": bool}[dtype]
        found = sorted({kind(one) for one in raw})
        if len(found) < 2:
            raise DataError(
                f"treatment {name!r} is {found[0]!r} in every row", hint="an effect is seen by comparing two arms", slug="one-arm"
            )
        if len(found) > ARMS_MOST:
            raise DataError(
                f"treatment {name!r} holds {len(found)} different values", hint="is it a dose or an identifier?", slug="bad-treatment"
            )
        control = self._control(found)
        treatments = [arm for arm in found if arm is not control]
        if self.interface.propensity is not None and len(treatments) > 1:
            raise DataError(
                f"propensity is that of one treatment, and {name!r} holds {len(treatments)}",
                hint="leave propensity out",
                slug="bad-propensity",
            )
        self._compare_shares(values, treatments)
        return {"name": name, "dtype": dtype, "arms": [control, *treatments]}

    def _compare_shares(self, values: pd.Series[Any], treatments: list[Any]) -> None:
        """Warn where the share of the treated cannot come from a draw with the probability that is declared."""
        declared = self.interface.propensity
        if declared is None or isinstance(declared, str):
            return
        share = float(values.isin(treatments).mean())
        if abs(share - declared) > 5 * math.sqrt(declared * (1 - declared) / len(values)):
            log.warning(
                "data_interface.propensity says that %.3g of the rows are treated, and %.3g of %d are: the draw was another one, or rows "
                "were left out by what they got",
                declared, share, len(values),
            )  # fmt: skip

    def _control(self, found: list[Any]) -> Any:
        """The value of the controls: the one that is named, or that says so by itself."""
        wanted = self.interface.control
        name = self.interface.treatment_col
        shown = ", ".join(repr(arm) for arm in found)
        for arm in found:
            if wanted is not None and _same(wanted, arm):
                return arm
        if wanted is not None:
            texts = [str(arm) for arm in found]
            meant = f"{did_you_mean(str(wanted), texts)}; " if nearest(str(wanted), texts) else ""
            raise DataError(f"no row of {name!r} is {wanted!r}, the control", hint=f"{meant}the values are {shown}", slug="no-control")
        for named in CONTROLS:
            for arm in found:
                if _same(named, arm):
                    return arm
        raise DataError(
            f"which value of {name!r} stands for the controls?", hint=f"name it in data_interface.control: {shown}", slug="no-control"
        )

    def _arm_codes(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[np.intp]:
        name = self.interface.treatment_col
        require_columns(data, "treatment_col", (name,))
        _no_null_treatments(name, data[name])
        arms = self.arms(schema)
        codes = codes_of(np.array(arms, dtype=object), data[name].to_numpy(dtype=object))
        if (codes < 0).any():
            unknown = np.flatnonzero(codes < 0)
            first = int(unknown[0])
            arm = data[name].iloc[[first]].tolist()[0]
            raise DataError(
                f"treatment {name!r}: {arm!r} was not there in training ({len(unknown)} rows, the first is row {first})",
                hint=f"training had {', '.join(repr(arm) for arm in arms)}",
                slug="unknown-treatment",
            )
        return codes

    def _propensity(self, data: pd.DataFrame) -> NDArray[np.float64]:
        """The known probability of being treated (n,)."""
        known = self.interface.propensity
        if not isinstance(known, str):
            return np.full(len(data), float(known))
        require_columns(data, "propensity", (known,))
        try:
            values = data[known].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise DataError(f"propensity {known!r}: numbers expected, got {data[known].dtype}", slug="bad-propensity") from error
        wrong = np.flatnonzero(~((values > 0) & (values < 1)))
        if len(wrong):
            raise DataError(
                f"propensity {known!r}: numbers between 0 and 1 expected; {len(wrong)} rows hold none, the first is row {int(wrong[0])}",
                hint="who could not have been treated, or not been left out, has no effect to compare: leave these rows out",
                slug="bad-propensity",
            )
        return values

    def _strata(self, selected: Selected, treatment: NDArray[np.intp], schema: InputSchema) -> NDArray[Any]:
        """(n,) text: the arm, and the outcome where it is one of two and no pair is rare."""
        arms = [str(arm) for arm in self.arms(schema)]
        if "classes" in schema.target:
            pair: NDArray[np.intp] = 2 * treatment + np.asarray(selected.y)
            if np.bincount(pair, minlength=2 * len(arms)).min() >= STRATUM_LEAST:
                return np.array([f"{arm}: {label}" for arm in arms for label in schema.target["classes"]])[pair]
        return np.array(arms)[treatment]


# --- models -------------------------------------------------------------------------------------------


def _is_x_learner(model: Any) -> bool:
    return any(base.__name__ == "BaseXLearner" for base in type(model).__mro__)


def _require_weights(model: Any) -> None:
    """A meta-learner hands weights on to what learns inside; that must take them."""
    for name in ("learner", "control_learner", "effect_learner"):
        part = getattr(model, name, None)
        if part is None:
            continue
        if finds_weight(part) is None:
            raise RecipeError(
                Problem(
                    "no-sample-weight",
                    ("model", "data_interface", "sample_weight_col"),
                    f"{type(part).__name__}, the {name} of {type(model).__name__}, takes no sample weights in fit",
                    "leave sample_weight_col out, or choose one that takes them",
                )
            )


def _no_treatment(model: type[Any]) -> Problem:
    return Problem(
        "no-treatment",
        ("model", "class_path"),
        f"{model.__name__} takes no treatment in fit, so it cannot learn an effect",
        "put it into a meta-learner: class_path: t_learner, hyperparameters: {learner: {class_path: …}}",
        "value",
    )


def _own_control(model: Any) -> Problem:
    if "tree" in type(model).__module__.split("."):
        return Problem(
            "no-treatment",
            ("model", "class_path"),
            f"{type(model).__name__} names its groups by text, and the treatment is told to models by number",
            "use a meta-learner: t_learner, s_learner, or one of causalml.inference.meta",
            "value",
        )
    return Problem(
        "conflict",
        ("model", "hyperparameters", "control_name"),
        "the controls are told to the model by number",
        "leave control_name out, and name them in data_interface.control",
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """CausalML's folds run in threads of this process, and what it makes scikit-learn say about its own use of it is not shown.

    Its R-learners ask for one process per core whatever the caller wants, and its propensity model uses what scikit-learn 1.8
    deprecated; neither can be set from outside.
    """
    from joblib import parallel_config

    with parallel_config(backend="threading"), warnings.catch_warnings():
        for said in ("'penalty' was deprecated", "The fitted attributes of LogisticRegressionCV"):
            warnings.filterwarnings("ignore", message=said, category=FutureWarning)
        yield


# --- values -------------------------------------------------------------------------------------------


def _no_null_treatments(name: str, values: pd.Series[Any]) -> None:
    nulls = np.flatnonzero(values.isna().to_numpy())
    if len(nulls):
        rows = ", ".join(str(row) for row in nulls[:5]) + (" …" if len(nulls) > 5 else "")
        raise DataError(
            f"treatment {name!r} is null in {len(nulls)} of {len(values)} rows: {rows}",
            hint="a row whose treatment is not known tells nothing; remove it in the source",
            slug="null-treatment",
        )


def _same(one: Any, other: Any) -> bool:
    """Equal and of one kind: 0 and False are two values."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
