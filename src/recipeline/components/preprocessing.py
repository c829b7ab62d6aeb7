"""The default preprocessor: columns of a frame to one matrix of numbers, in the order of the data.

Built on scikit-learn's transformers; a transformer itself, so it also stands in a scikit-learn Pipeline.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone

from recipeline.errors import DataError, Problem, RecipeError, did_you_mean, nearest
from recipeline.schema import dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recipeline.schema import InputSchema

    Matrix = NDArray[np.float64]

log = logging.getLogger("recipeline")

CHOICES: Mapping[str, tuple[str, ...]] = {
    "categorical_strategy": ("onehot", "label", "target"),
    "numerical_strategy": ("none", "standard", "minmax", "robust"),
    "missing_strategy": ("median", "mean", "mode", "drop"),
    "outlier_method": ("iqr", "zscore", "isolation_forest"),
}
LISTS = ("exclude_cols", "categorical_features", "numerical_features")
THRESHOLDS = {"iqr": 1.5, "zscore": 3.0}
"""Tukey's fences in interquartile ranges; standard deviations."""

MANY = 100
"""Values of one text column from which on `remarks` asks whether they are categories."""
WIDEST, LARGEST = 10_000, 4 << 30
"""One-hot columns in all, and bytes of the fitted matrix, beyond which fitting is refused: see decision 24."""


class DefaultPreprocessor(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Columns (n, ·) to numbers (n, d), float64 in C order, in the order of the data.

    Without arguments: numbers stay as they are, nulls become the median (numbers) or the most frequent value (text),
    text and categories become one column per value, all zeros for a value that training did not have.

    exclude_cols          left out; such a column is not part of the input contract, so rows to predict need not have it
    categorical_features  treated as categories, numbers too; text columns are categories whether listed or not
    categorical_strategy  onehot; label: the position among the sorted values, -1 for a new one; target: the mean target
                          per value, smoothed, cross-fitted on the training rows (scikit-learn's TargetEncoder)
    max_categories        with onehot: at most so many columns per column; the rarest values share the last one, and so do
                          values that training did not have
    numerical_features    columns that numerical_strategy scales; all numbers when not given, the others stay unscaled
    numerical_strategy    none, standard, minmax, robust
    missing_strategy      median, mean, mode; drop: rows with nulls are not fitted on. A prediction row is never lost:
                          its nulls are filled with median and mode
    outlier_detection     rows with outliers are not fitted on; prediction rows are left as they are
    outlier_method        iqr, zscore: any number outside the fences; isolation_forest
    outlier_threshold     width of the fences: 1.5 interquartile ranges, 3 standard deviations
    steps                 [(name, transformer, columns)]: these columns through a scikit-learn transformer instead
    random_state          folds of the target encoder, isolation forest
    interface             given by the engine: data_interface, whose columns exclude_cols may name although they are
                          no features

    The matrix is dense. One-hot encoding that would make more than 10,000 columns, or a matrix of more than 4 GiB, is
    refused; `remarks` names text columns that hardly are categories.
    """

    any_layout = True  # its matrix is in C order, however the frame lies in memory

    def __init__(
        self,
        exclude_cols: Sequence[str] = (),
        categorical_features: Sequence[str] | None = None,
        categorical_strategy: str = "onehot",
        max_categories: int | None = None,
        numerical_features: Sequence[str] | None = None,
        numerical_strategy: str | None = "none",
        missing_strategy: str = "median",
        outlier_detection: bool = False,
        outlier_method: str = "iqr",
        outlier_threshold: float | None = None,
        steps: Sequence[Any] | None = None,
        random_state: int | None = None,
        interface: Mapping[str, Any] | None = None,
    ) -> None:
        self.exclude_cols = exclude_cols
        self.categorical_features = categorical_features
        self.categorical_strategy = categorical_strategy
        self.max_categories = max_categories
        self.numerical_features = numerical_features
        self.numerical_strategy = numerical_strategy
        self.missing_strategy = missing_strategy
        self.outlier_detection = outlier_detection
        self.outlier_method = outlier_method
        self.outlier_threshold = outlier_threshold
        self.steps = steps
        self.random_state = random_state
        self.interface = interface

    # --- fitting ---

    def expect(self, schema: InputSchema) -> None:
        """The contract of the rows to come: a fill is learned only for columns that may have nulls."""
        self.nullable_ = [column.name for column in schema.columns if column.nullable]

    def remarks(self, X: pd.DataFrame) -> list[str]:
        """What a person should know before these rows (n, ·) are fitted on, one line each: texts that hardly are categories.

        A column that categorical_features names is meant so, and gets no remark.
        """
        try:
            plan, frame = _Plan.of(self, _frame(X))
        except (DataError, RecipeError):
            return []  # fitting says it, where these arguments are the ones that are fitted: a search may choose others
        meant = set(self.categorical_features or ())
        found = (
            _remark(plan.names[at], frame.iloc[:, at], self.categorical_strategy == "onehot" and self.max_categories is None)
            for at in plan.categorical
            if plan.names[at] not in meant
        )
        return [remark for remark in found if remark]

    def training_rows(self, X: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows (n,) fitting uses: without those that `drop` and outlier detection leave out.

        Raises DataError where no row is left.
        """
        kept = np.ones(len(X), dtype=bool)
        if self.missing_strategy != "drop" and not self.outlier_detection:
            return kept
        plan, frame = _Plan.of(self, _frame(X))
        if self.missing_strategy == "drop":
            kept &= frame.notna().to_numpy().all(axis=1)
        if self.outlier_detection and plan.numeric and kept.any():
            columns = [plan.numeric[at] for at in plan.scaled] or plan.numeric
            rows = np.flatnonzero(kept)
            kept[rows[self._outliers(_numbers(frame.iloc[rows, columns]))]] = False
        if not kept.any():
            raise DataError(
                "every training row has a null or an outlier", hint="choose another missing_strategy or outlier_method", slug="no-rows"
            )
        log.debug("fitting uses %d of %d rows: the others have nulls or outliers", int(kept.sum()), len(kept))
        return kept

    def _outliers(self, numbers: Matrix) -> NDArray[np.bool_]:
        """Rows (n,) with a number outside the fences; columns without spread, as rare flags, have no outliers."""
        if self.outlier_method == "isolation_forest":
            from sklearn.ensemble import IsolationForest

            filled = np.where(np.isnan(numbers), _fills(numbers, "median"), numbers)
            return np.asarray(IsolationForest(random_state=self.random_state).fit_predict(filled) == -1)
        numbers = numbers[:, ~np.isnan(numbers).all(axis=0)]
        width = THRESHOLDS[self.outlier_method] if self.outlier_threshold is None else self.outlier_threshold
        if self.outlier_method == "iqr":
            low, high = np.nanpercentile(numbers, [25, 75], axis=0)
            spread = high - low
        else:
            low = high = np.nanmean(numbers, axis=0)
            spread = np.nanstd(numbers, axis=0)
        outside = (numbers < low - width * spread) | (numbers > high + width * spread)
        return np.asarray((outside & (spread > 0)).any(axis=1))

    def fit(self, X: pd.DataFrame, y: Any = None) -> DefaultPreprocessor:
        """Learn fills, categories and scales from a frame (n, ·)."""
        self.fit_transform(X, y)
        return self

    def fit_transform(self, X: pd.DataFrame, y: Any = None) -> Matrix:
        """Learn from a frame (n, ·) and give its matrix (n, d).

        Differs from `fit`, then `transform`, where a target encoder cross-fits.
        Raises DataError for columns that are named and not there, or hold what cannot become numbers.
        """
        frame = _frame(X)
        if len(frame) == 0:
            raise DataError("there are no rows to fit on", slug="no-rows")
        plan, frame = _Plan.of(self, frame)
        self.feature_names_in_ = np.array(plan.names, dtype=object)
        self.n_features_in_ = len(plan.names)
        self.numeric_ = np.array(plan.numeric, dtype=np.intp)
        self.scaled_ = np.array(plan.scaled, dtype=np.intp)
        self.categorical_ = np.array(plan.categorical, dtype=np.intp)
        with config_context(assume_finite=True, skip_parameter_validation=True):
            blocks = [self._fit_numbers(frame), *self._fit_categories(frame, y), *self._fit_steps(frame, plan.steps, y)]
        self._lay_out(plan, [block.shape[1] for block in blocks])
        return self._put_together(blocks)

    def _fit_numbers(self, frame: pd.DataFrame) -> Matrix:
        matrix = self._numeric(frame)
        self.fills_ = np.full(matrix.shape[1], np.nan)
        filled = np.arange(matrix.shape[1])
        if hasattr(self, "nullable_"):  # the contract refuses nulls in all others
            filled = np.flatnonzero(np.isin(self.feature_names_in_[self.numeric_], self.nullable_))
        if len(filled):
            self.fills_[filled] = _fills(matrix[:, filled], self.missing_strategy)
        _fill(matrix, self.fills_)
        self.scaler_ = _scaler(self.numerical_strategy) if len(self.scaled_) else None
        if self.scaler_ is not None:
            self._each_scaled(matrix, self.scaler_.fit_transform)
        return matrix

    def _fit_categories(self, frame: pd.DataFrame, y: Any) -> Iterator[Matrix]:
        self.encoder_: Any = None
        if not len(self.categorical_):
            return
        values = frame.iloc[:, self.categorical_].to_numpy(dtype=object)
        nulls = pd.isna(values)
        self.modes_ = np.array([_mode(values[~nulls[:, at], at]) for at in range(values.shape[1])], dtype=object)
        values = np.where(nulls, self.modes_, values)
        self.encoder_ = self._encoder(y)
        if self.categorical_strategy == "onehot":
            coded = self.encoder_.fit_transform(values)
            self._refuse_too_wide(len(frame))
            yield coded
            return
        yield np.asarray(self.encoder_.fit_transform(values, y), dtype=np.float64)
        if self.categorical_strategy == "target":
            self.encoder_.cv = 5  # its folds have done their work, and skops trusts no splitter

    def _refuse_too_wide(self, n: int) -> None:
        """DataError before a matrix is made that a machine may not hold, with the column that is to blame."""
        widths = self._widths()
        columns = sum(widths) + len(self.numeric_)
        if sum(widths) <= WIDEST and columns * n * 8 <= LARGEST:
            return
        widest = int(np.argmax(widths))
        name = str(self.feature_names_in_[self.categorical_[widest]])
        raise DataError(
            f"one-hot encoding makes {sum(widths)} columns ({columns * n * 8 / 2**30:.3g} GiB for {n} rows), "
            f"{widths[widest]} of them of column {name!r}",
            hint=f"exclude_cols: [{name}] if it names the row, else categorical_strategy: target, or max_categories: {MANY}",
            slug="too-many-categories",
        )

    def _encoder(self, y: Any) -> Any:
        from sklearn.model_selection import KFold, StratifiedKFold
        from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

        if self.categorical_strategy == "onehot":
            unknown = "ignore" if self.max_categories is None else "infrequent_if_exist"
            return OneHotEncoder(handle_unknown=unknown, max_categories=self.max_categories)
        if self.categorical_strategy == "label":
            return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        target = None if y is None else np.asarray(y)
        if target is None or target.ndim != 1:
            raise RecipeError(
                Problem(
                    "bad-value",
                    ("model", "preprocessor", "params", "categorical_strategy"),
                    "target encoding needs exactly one target",
                    "use onehot or label",
                    at="value",
                )
            )
        if target.dtype.kind == "f":  # a task gives values as floats and classes as integers
            return TargetEncoder(target_type="continuous", cv=KFold(min(5, len(target)), shuffle=True, random_state=self.random_state))
        _, counts = np.unique(target, return_counts=True)
        kind = KFold if counts.min() < 2 else StratifiedKFold
        folds = min(5, len(target) if counts.min() < 2 else int(counts.min()))
        return TargetEncoder(
            target_type="binary" if len(counts) == 2 else "multiclass", cv=kind(folds, shuffle=True, random_state=self.random_state)
        )

    def _fit_steps(self, frame: pd.DataFrame, steps: Sequence[tuple[str, Any, Any]], y: Any) -> Iterator[Matrix]:
        self.steps_: list[tuple[str, Any, Any]] = []
        for name, transformer, columns in steps:
            fitted = clone(transformer)
            self.steps_.append((name, fitted, columns))
            given = frame[columns]
            made = fitted.fit_transform(given, y) if hasattr(fitted, "fit_transform") else fitted.fit(given, y).transform(given)
            yield _dense(made, len(frame))

    def _lay_out(self, plan: _Plan, widths: Sequence[int]) -> None:
        """Where each column of each block stands in the output: where its first source column stands in the data."""
        sources: list[int] = list(plan.numeric)
        if plan.categorical:
            sources += np.repeat(plan.categorical, self._widths()).tolist()
        for (_, _, columns), width in zip(plan.steps, widths[len(widths) - len(plan.steps) :], strict=True):
            named = [columns] if isinstance(columns, str) else columns
            sources += [min(plan.names.index(name) for name in named)] * width
        order = np.argsort(np.array(sources, dtype=np.intp), kind="stable")
        self.places_ = np.empty_like(order)
        self.places_[order] = np.arange(len(order))

    def _widths(self) -> list[int]:
        """Output columns per categorical column."""
        if self.categorical_strategy == "onehot":
            rare = [None] * len(self.categorical_) if self.max_categories is None else self.encoder_.infrequent_categories_
            return [len(known) - (0 if few is None else len(few) - 1) for known, few in zip(self.encoder_.categories_, rare, strict=True)]
        per = len(self.encoder_.classes_) if self.categorical_strategy == "target" and self.encoder_.target_type_ == "multiclass" else 1
        return [per] * len(self.categorical_)

    def reads(self) -> list[str]:
        """The columns that `transform` wants: those of training without the excluded ones."""
        return [str(name) for name in self.feature_names_in_]

    # --- transforming ---

    def transform(self, X: pd.DataFrame) -> Matrix:
        """The matrix (n, d) of a frame with the columns that it `reads`, in any order; as many rows as were given."""
        frame = self._as_trained(_frame(X))
        if len(frame) == 0:
            return np.empty((0, len(self.places_)))
        with config_context(assume_finite=True, skip_parameter_validation=True):
            blocks = [self._transform_numbers(frame)]
            if self.encoder_ is not None:
                values = frame.iloc[:, self.categorical_].to_numpy(dtype=object)
                values = np.where(pd.isna(values), self.modes_, values)
                blocks.append(self.encoder_.transform(values))
            blocks += [_dense(fitted.transform(frame[columns]), len(frame)) for _, fitted, columns in self.steps_]
        return self._put_together(blocks)

    def _transform_numbers(self, frame: pd.DataFrame) -> Matrix:
        matrix = self._numeric(frame)
        _fill(matrix, self.fills_)
        if self.scaler_ is not None:
            self._each_scaled(matrix, self.scaler_.transform)
        return matrix

    def _numeric(self, frame: pd.DataFrame) -> Matrix:
        if len(self.numeric_) == len(frame.columns):
            return _numbers(frame)
        return _numbers(frame.iloc[:, self.numeric_])

    def _each_scaled(self, matrix: Matrix, scale: Any) -> None:
        """Scale in place: `matrix` is ours, and the scalers were told not to copy."""
        if len(self.scaled_) == matrix.shape[1]:
            matrix[:] = scale(matrix)
        else:
            matrix[:, self.scaled_] = scale(np.ascontiguousarray(matrix[:, self.scaled_]))

    def _put_together(self, blocks: Sequence[Any]) -> Matrix:
        """One matrix of blocks (n, ·); a sparse one, of one-hot columns, is written into it without being made dense before."""
        if len(blocks) == 1 and not hasattr(blocks[0], "indptr"):
            return np.asarray(blocks[0], dtype=np.float64)
        matrix = np.zeros((blocks[0].shape[0], len(self.places_)))
        start = 0
        for block in blocks:
            places = self.places_[start : start + block.shape[1]]
            if hasattr(block, "indptr"):
                matrix[np.repeat(np.arange(len(matrix)), np.diff(block.indptr)), places[block.indices]] = block.data
            else:
                matrix[:, places] = block
            start += block.shape[1]
        return matrix

    def _as_trained(self, frame: pd.DataFrame) -> pd.DataFrame:
        wanted = self.feature_names_in_.tolist()
        if frame.columns.tolist() == wanted:
            return frame
        _known("the rows", [name for name in wanted if name not in frame.columns], [str(name) for name in frame.columns])
        chosen: pd.DataFrame = frame[wanted]
        return chosen

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Names (d,) of the output columns: `name`, `name_value` (onehot), `name_class` (target), `step__name`."""
        names = self.feature_names_in_
        made: list[str] = list(names[self.numeric_])
        if self.encoder_ is not None:
            made += list(self.encoder_.get_feature_names_out(names[self.categorical_]))
        for name, fitted, columns in self.steps_:
            made += [f"{name}__{out}" for out in fitted.get_feature_names_out(np.atleast_1d(np.array(columns, dtype=object)))]
        ordered = np.empty(len(made), dtype=object)
        ordered[self.places_] = made
        return ordered

    # --- mistakes that need no data ---

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """Unknown strategies, columns with two roles, arguments that would be ignored."""
        problems = [
            Problem("bad-value", (key,), f"{value!r} is not one of {', '.join(known)}", "", "value", nearest(value, known))
            for key, known in CHOICES.items()
            if isinstance(value := params.get(key), str) and value not in known
        ]
        lists = {key: value for key in LISTS if isinstance(value := params.get(key), list | tuple)}
        for key, value in lists.items():
            problems += [
                Problem("bad-value", (key, at), "a column name expected", at="value")
                for at, name in enumerate(value)
                if not isinstance(name, str)
            ]
        problems += [
            Problem("conflict", (second,), f"column {name} is in {first} as well", "name it once")
            for first, second in (("exclude_cols", "categorical_features"), ("exclude_cols", "numerical_features"), LISTS[1:])
            for name in lists.get(second, ())
            if name in lists.get(first, ())
        ]
        if "outlier_detection" not in params:  # an explicit false is a switch, and what it switches off may stay
            problems += [
                Problem("ignored", (key,), "has no effect without outlier_detection: true", "add it, or remove this key")
                for key in ("outlier_method", "outlier_threshold")
                if params.get(key) is not None
            ]
        threshold = params.get("outlier_threshold")
        if isinstance(threshold, int | float) and not isinstance(threshold, bool) and threshold <= 0:
            problems.append(Problem("bad-value", ("outlier_threshold",), "a number above 0 expected", at="value"))
        problems += _check_max_categories(params)
        if threshold is not None and params.get("outlier_method") == "isolation_forest":
            problems.append(Problem("ignored", ("outlier_threshold",), "has no effect on isolation_forest", "remove it"))
        return problems


def _check_max_categories(params: Mapping[str, Any]) -> list[Problem]:
    most = params.get("max_categories")
    if most is None or isinstance(most, Mapping):  # a range to search
        return []
    if not isinstance(most, int) or isinstance(most, bool) or most < 2:
        return [Problem("bad-value", ("max_categories",), "a whole number above 1 expected", at="value")]
    if params.get("categorical_strategy") in ("label", "target"):
        return [Problem("ignored", ("max_categories",), "has no effect without categorical_strategy: onehot", "remove it")]
    return []


# --- which column goes where ------------------------------------------------------------------------


class _Plan:
    """What happens to each column of a frame without the excluded ones, by position.

    numeric, categorical   positions in that frame
    scaled                 positions within `numeric`
    steps                  (name, transformer, columns), columns one name or a list
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.numeric: list[int] = []
        self.categorical: list[int] = []
        self.scaled: list[int] = []
        self.steps: list[tuple[str, Any, Any]] = []

    @classmethod
    def of(cls, part: DefaultPreprocessor, frame: pd.DataFrame) -> tuple[_Plan, pd.DataFrame]:
        """The plan, and the frame that its positions mean."""
        _valid(part)
        names = [str(name) for name in frame.columns]
        excluded, chosen = set(part.exclude_cols or ()), set(part.categorical_features or ())
        kept = [at for at, name in enumerate(names) if name not in excluded]
        plan = cls([names[at] for at in kept])
        plan.steps = [_step(step, at) for at, step in enumerate(part.steps or ())]
        stepped = {name for _, _, columns in plan.steps for name in ([columns] if isinstance(columns, str) else columns)}
        scaled = None if part.numerical_features is None else set(part.numerical_features)
        present = set(names)
        for key, named in (("exclude_cols", excluded - _aside(part.interface)), ("categorical_features", chosen), ("steps", stepped)):
            _known(key, sorted(named - present), names)
        _known("numerical_features", sorted((scaled or set()) - present), names)
        if both := sorted(stepped & excluded):
            where = ("model", "preprocessor", "params", "steps")
            raise RecipeError(Problem("conflict", where, f"column {both[0]} is in exclude_cols as well", "name it once"))
        if not kept:
            raise DataError("exclude_cols leaves no column", hint="keep at least one", slug="no-features")
        frame = frame if len(kept) == len(names) else frame.iloc[:, kept]
        for at, (name, dtype) in enumerate(zip(plan.names, frame.dtypes, strict=True)):
            if name in stepped:
                continue
            if name in chosen or not _is_number(frame, at, dtype, listed=scaled is not None and name in scaled):
                plan.categorical.append(at)
                continue
            if scaled is None or name in scaled:
                plan.scaled.append(len(plan.numeric))
            plan.numeric.append(at)
        return plan, frame


def _valid(part: DefaultPreprocessor) -> None:
    """The same check that the engine makes before data are read, for who uses the class by hand."""
    problems = DefaultPreprocessor.check(part.get_params(deep=False) | {"outlier_detection": True, "outlier_threshold": None}, {}, "")
    if problems:
        raise RecipeError(problems)


def _aside(interface: Mapping[str, Any] | None) -> set[str]:
    """Columns that the task takes out before a preprocessor sees them."""
    found: set[str] = set()
    for key in ("target_col", "entity_cols", "timestamp_col", "group_col", "sample_weight_col"):
        value = (interface or {}).get(key)
        found |= {value} if isinstance(value, str) else set(value or ())
    return found


def _known(key: str, missing: Sequence[str], names: Sequence[str]) -> None:
    if missing:
        listed = ", ".join(repr(name) for name in missing)
        raise DataError(f"{key}: no feature column {listed}", hint=did_you_mean(missing[0], names), slug="missing-column")


def _is_number(frame: pd.DataFrame, at: int, dtype: Any, *, listed: bool) -> bool:
    """True for a column of numbers, False for text and categories; DataError for time stamps and other objects."""
    if getattr(dtype, "kind", "O") in "fiub" and not isinstance(dtype, pd.CategoricalDtype):
        return True
    values = frame.iloc[:, at]
    kind = "string" if isinstance(dtype, pd.CategoricalDtype) else dtype_of(values)
    if kind in {"datetime", "datetime_utc"}:
        raise DataError(
            f"column {values.name!r} holds time stamps, which are not numbers",
            hint="name it in exclude_cols or as timestamp_col, or derive numbers from it in the source",
            slug="schema",
        )
    if kind == "string" and listed:
        raise DataError(f"numerical_features: column {values.name!r} holds text", hint="name it in categorical_features", slug="schema")
    return kind != "string"


def _step(step: Any, at: int) -> tuple[str, Any, Any]:
    """(name, transformer, columns) of a step written as a triple or as a mapping."""
    if isinstance(step, Mapping) and set(step) - {"name"} == {"transformer", "columns"}:
        step = (step.get("name", f"step{at}"), step["transformer"], step["columns"])
    if not isinstance(step, Mapping) and len(step) == 3 and hasattr(step[1], "transform"):
        name, transformer, columns = step
        return str(name), transformer, columns if isinstance(columns, str) else list(columns)
    raise RecipeError(
        Problem("bad-value", ("model", "preprocessor", "params", "steps", at), "name, transformer and columns expected", at="value")
    )


# --- texts that hardly are categories ---

_SHAPES = (
    ("dates", re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}( .*)?"), "write them as 2024-12-31 and derive numbers from them in the source"),
    ("amounts", re.compile(r"[^\w.,-]{0,2} ?-?\d[\d.,' ]* ?[^\w.,]{0,2}"), "make them numbers in the source"),
)
"""What a text may look like that is no category, and what to do about it."""


def _remark(name: str, values: pd.Series, widens: bool) -> str:
    """What is odd about a text column (n,) as categories, in one line; empty where nothing is.

    widens  every value becomes a column
    """
    known = [str(value) for value in values.dropna().unique()]
    if len(known) < 3:
        return ""
    meant = "or name it in categorical_features if it is meant so"
    numbers = [text for text in known if _is_written_number(text)]
    if 2 * len(numbers) > len(known) > len(numbers):
        other = next(text for text in known if not _is_written_number(text))
        return (
            f"column {name!r} is taken for text because of {_short(other)}: {len(numbers)} of its {len(known)} different values are "
            f"numbers; clean it in the source, {meant}"
        )
    for what, shape, remedy in _SHAPES if len(numbers) < len(known) else ():
        if all(shape.fullmatch(text) for text in known):
            return f"column {name!r} is taken for text, and its values look like {what}, as {_short(known[0])}; {remedy}, {meant}"
    if not widens or len(known) <= MANY:
        return ""
    if 2 * len(known) > len(values):
        return (
            f"column {name!r} has {len(known)} different texts in {len(values)} rows, and becomes {len(known)} columns: it looks like a "
            f"name of the row or free text; name it in entity_cols or exclude_cols, {meant}"
        )
    return (
        f"column {name!r} has {len(known)} different texts and becomes {len(known)} columns; use categorical_strategy: target, or "
        f"max_categories: {MANY // 2}, {meant}"
    )


def _is_written_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:27] + "…")


# --- numbers ------------------------------------------------------------------------------------------


def _frame(X: Any) -> pd.DataFrame:
    if isinstance(X, pd.DataFrame):
        return X
    values = np.asarray(X)
    return pd.DataFrame(values, columns=[f"x{at}" for at in range(values.shape[1])])


def _numbers(frame: pd.DataFrame) -> Matrix:
    """A matrix (n, d) of our own, float64 in C order, nulls as NaN."""
    extension = any(not isinstance(dtype, np.dtype) for dtype in frame.dtypes)
    given = frame.to_numpy(dtype=np.float64, na_value=np.nan) if extension else frame.to_numpy(dtype=np.float64)
    return np.array(given, order="C", copy=True)


def _fill(matrix: Matrix, fills: NDArray[np.float64]) -> None:
    nulls = np.isnan(matrix)
    if nulls.any():
        np.copyto(matrix, fills, where=nulls)


def _fills(matrix: Matrix, strategy: str) -> NDArray[np.float64]:
    """What nulls become, per column (d,), whether it had nulls or not: prediction may bring the first one.

    A column of nothing but nulls becomes 0: a constant, which tells a model nothing.
    """
    nulls = np.isnan(matrix)
    fills = np.zeros(matrix.shape[1])
    whole = np.flatnonzero(~nulls.any(axis=0))
    if len(whole):
        part = matrix if len(whole) == matrix.shape[1] else matrix[:, whole]
        fills[whole] = _centres(np.array(part.T, order="C"), strategy)
    for at in np.setdiff1d(np.arange(matrix.shape[1]), whole):
        known = matrix[~nulls[:, at], at]
        if len(known):
            fills[at] = _centres(known[np.newaxis], strategy)[0]
    return fills


def _centres(rows: Matrix, strategy: str) -> NDArray[np.float64]:
    """Mean, mode (the smallest of the most frequent) or median of each row of a C-ordered (d, n), which may be reordered."""
    if strategy == "mean":
        return np.asarray(rows.mean(axis=1))
    if strategy == "mode":
        return np.array([float(_mode(row)) for row in rows])
    n = rows.shape[1]
    half = n // 2
    rows.partition(half, axis=1)
    upper = rows[:, half].copy()
    return upper if n % 2 else np.asarray((rows[:, :half].max(axis=1) + upper) / 2)


def _mode(values: NDArray[Any]) -> Any:
    """The most frequent value, the smallest of several; an empty text where there is none."""
    if len(values) == 0:
        return ""
    counts = pd.Series(values).value_counts(sort=False)
    return min(counts.index[counts.to_numpy() == counts.max()])


def _scaler(strategy: str | None) -> Any:
    if strategy in (None, "none"):
        return None
    from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

    return {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}[strategy](copy=False)


def _dense(made: Any, n: int) -> Matrix:
    if hasattr(made, "toarray"):
        made = made.toarray()
    return np.asarray(made, dtype=np.float64).reshape(n, -1)
