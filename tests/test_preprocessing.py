"""The default preprocessor: scikit-learn's ColumnTransformer, imputers and encoders are the second road."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from recipeline.components import preprocessing
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.errors import DataError, RecipeError


@pytest.fixture
def frame() -> pd.DataFrame:
    """Numbers, a flag and text, some of them null, in no particular order."""
    random = np.random.default_rng(21)
    n = 90
    price = random.gamma(2.0, size=n)
    price[[3, 40]] = np.nan
    region = random.choice(["north", "south", "east"], n).astype(object)
    region[[5, 6, 60]] = None
    return pd.DataFrame(
        {
            "region": region,
            "price": price,
            "brand": random.choice(["a", "b", "c", "d"], n),
            "reviews": random.integers(1, 50, n),
            "new": random.random(n) < 0.3,
            "rating": random.normal(3, 1, n),
        }
    )


@pytest.fixture
def target(frame: pd.DataFrame) -> np.ndarray:
    return (frame["rating"].to_numpy() + (frame["brand"] == "a").to_numpy() > 3).astype(np.int64)


def test_without_arguments_numbers_stay_and_keep_their_order() -> None:
    """The very bits of a hand-written script's matrix, in C order."""
    given = np.random.default_rng(1).normal(size=(50, 7))
    frame = pd.DataFrame(given, columns=list("gfedcba"))
    made = DefaultPreprocessor().fit_transform(frame)
    assert made.dtype == np.float64
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(made, given)


def test_text_becomes_columns_in_its_own_place(frame: pd.DataFrame) -> None:
    """The order is the data's; each value of a text column has a column where the text stood; nulls take the most frequent value."""
    part = DefaultPreprocessor()
    made = part.fit_transform(frame)
    text = make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=None), OneHotEncoder(sparse_output=False))
    by_hand = np.hstack(
        [
            text.fit_transform(frame[["region"]].astype(object).where(frame[["region"]].notna(), None)),
            SimpleImputer(strategy="median").fit_transform(frame[["price"]]),
            OneHotEncoder(sparse_output=False).fit_transform(frame[["brand"]]),
            frame[["reviews", "new", "rating"]].to_numpy(np.float64),
        ]
    )
    np.testing.assert_array_equal(made, by_hand)
    np.testing.assert_array_equal(part.transform(frame), made)
    assert part.get_feature_names_out().tolist() == [
        "region_east", "region_north", "region_south", "price", "brand_a", "brand_b", "brand_c", "brand_d", "reviews", "new", "rating",
    ]  # fmt: skip


def test_a_value_that_training_did_not_have_is_all_zeros(frame: pd.DataFrame) -> None:
    """No error, no warning, no row lost."""
    part = DefaultPreprocessor().fit(frame)
    made = part.transform(frame.assign(brand="unheard of"))
    names = part.get_feature_names_out().tolist()
    assert len(made) == len(frame)
    assert (made[:, [at for at, name in enumerate(names) if name.startswith("brand_")]] == 0).all()


@pytest.mark.parametrize("strategy", ["median", "mean", "mode"])
def test_nulls_are_filled_as_simple_imputer_does(frame: pd.DataFrame, strategy: str) -> None:
    """Also in columns that had none in training: the first null may come at prediction."""
    numbers = frame[["price", "reviews", "rating"]]
    holes = numbers.astype(float).mask(np.random.default_rng(2).random(numbers.shape) < 0.2)
    theirs = SimpleImputer(strategy={"mode": "most_frequent"}.get(strategy, strategy)).fit(numbers)
    part = DefaultPreprocessor(missing_strategy=strategy).fit(numbers)
    np.testing.assert_allclose(part.transform(holes), theirs.transform(holes), rtol=1e-15)  # a mean may be summed in another order


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_the_median_is_the_median(n: int) -> None:
    """Odd and even numbers of rows, with and without nulls."""
    frame = pd.DataFrame(np.random.default_rng(n).normal(size=(n, 3)), columns=list("abc"))
    holes = pd.DataFrame(np.nan, index=range(2), columns=list("abc"))
    np.testing.assert_array_equal(DefaultPreprocessor().fit(frame).transform(holes), np.tile(frame.median().to_numpy(), (2, 1)))


def test_a_column_of_nothing_but_nulls_becomes_a_constant() -> None:
    """It tells a model nothing, and the row stays."""
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [np.nan, np.nan]})
    np.testing.assert_array_equal(DefaultPreprocessor().fit_transform(frame), [[1.0, 0.0], [2.0, 0.0]])


@pytest.mark.parametrize(("strategy", "scaler"), [("standard", StandardScaler()), ("minmax", MinMaxScaler()), ("robust", RobustScaler())])
def test_numbers_are_scaled_by_scikit_learn(strategy: str, scaler: Any) -> None:
    """To the last bit, and the frame that came in is left alone."""
    given = np.random.default_rng(3).normal(5, 3, size=(80, 4))
    frame = pd.DataFrame(given.copy(), columns=list("abcd"))
    part = DefaultPreprocessor(numerical_strategy=strategy)
    np.testing.assert_array_equal(part.fit_transform(frame), scaler.fit_transform(given))
    np.testing.assert_array_equal(part.transform(frame.iloc[:9]), scaler.transform(given[:9]))
    np.testing.assert_array_equal(frame.to_numpy(), given)


def test_the_block_of_the_guide_is_a_column_transformer(frame: pd.DataFrame) -> None:
    """Named columns get the named strategies, the others go on as they are; the same numbers as ColumnTransformer gives."""
    frame = frame.dropna().reset_index(drop=True)
    part = DefaultPreprocessor(
        categorical_features=["region", "brand"], categorical_strategy="onehot", numerical_features=["price", "rating"],
        numerical_strategy="standard", missing_strategy="median",
    )  # fmt: skip
    theirs = ColumnTransformer(
        [
            ("text", OneHotEncoder(sparse_output=False), ["region", "brand"]),
            ("numbers", StandardScaler(), ["price", "rating"]),
            ("rest", "passthrough", ["reviews", "new"]),
        ]
    )
    made = pd.DataFrame(part.fit_transform(frame), columns=part.get_feature_names_out())
    values = theirs.fit_transform(frame.astype({"new": float}))
    by_hand = pd.DataFrame(values, columns=[name.split("__")[1] for name in theirs.get_feature_names_out()])
    pd.testing.assert_frame_equal(made, by_hand[made.columns], rtol=1e-14)  # sums over columns and over rows differ in the last bit


def test_numbers_can_be_categories(frame: pd.DataFrame) -> None:
    """A column of integers that is listed as categorical is encoded like text."""
    part = DefaultPreprocessor(categorical_features=["reviews"], categorical_strategy="label")
    made = part.fit_transform(frame[["price", "reviews"]])
    np.testing.assert_array_equal(made[:, 1:], OrdinalEncoder().fit_transform(frame[["reviews"]]))
    assert part.transform(frame[["price", "reviews"]].assign(reviews=-5))[0, 1] == -1


@pytest.mark.parametrize("kind", ["binary", "several", "values"])
def test_target_encoding_is_cross_fitted_in_training(frame: pd.DataFrame, target: np.ndarray, kind: str) -> None:
    """scikit-learn's TargetEncoder with seeded folds; training rows never see their own target, so both ways differ."""
    y = {"binary": target, "several": target + (frame["reviews"].to_numpy() > 25), "values": np.round(frame["rating"].to_numpy())}[kind]
    text = frame[["brand"]]
    part = DefaultPreprocessor(categorical_strategy="target", random_state=8)
    folds = KFold if kind == "values" else StratifiedKFold
    theirs = TargetEncoder(
        target_type={"binary": "binary", "several": "multiclass", "values": "continuous"}[kind], cv=folds(5, shuffle=True, random_state=8)
    )
    fitted = part.fit_transform(text, y)
    np.testing.assert_array_equal(fitted, theirs.fit_transform(text, y))
    np.testing.assert_array_equal(part.transform(text), theirs.transform(text))
    assert not np.array_equal(fitted, part.transform(text))
    assert fitted.shape[1] == len(part.get_feature_names_out()) == (3 if kind == "several" else 1)
    np.testing.assert_array_equal(part.fit_transform(text, y), fitted)  # the same seed, the same folds


def test_target_encoding_wants_one_target(frame: pd.DataFrame) -> None:
    """Several targets, or none, are a mistake of the recipe."""
    for y in (None, np.zeros((len(frame), 2))):
        with pytest.raises(RecipeError, match="exactly one target"):
            DefaultPreprocessor(categorical_strategy="target").fit(frame, y)


def test_drop_leaves_rows_out_of_training_and_never_out_of_a_prediction(frame: pd.DataFrame) -> None:
    """`training_rows` says which; prediction rows with nulls are filled."""
    part = DefaultPreprocessor(missing_strategy="drop")
    kept = part.training_rows(frame)
    np.testing.assert_array_equal(kept, frame.notna().all(axis=1))
    assert DefaultPreprocessor(missing_strategy="drop", exclude_cols=["region", "price"]).training_rows(frame).all()
    part.fit(frame[kept])
    made = part.transform(frame)
    assert len(made) == len(frame)
    assert np.isfinite(made).all()
    price = part.get_feature_names_out().tolist().index("price")
    assert made[3, price] == frame.loc[kept, "price"].median()


def test_outliers_are_left_out_of_training_only(frame: pd.DataFrame) -> None:
    """Tukey's fences, three standard deviations, an isolation forest; a rare flag is no outlier."""
    frame.loc[7, "rating"] = 40.0
    frame["flag"] = np.arange(len(frame)) == 11
    numbers = frame[["price", "reviews", "rating"]]
    low, high = numbers.quantile(0.25), numbers.quantile(0.75)
    fences = ((numbers < low - 1.5 * (high - low)) | (numbers > high + 1.5 * (high - low))).any(axis=1)
    found = DefaultPreprocessor(outlier_detection=True, outlier_method="iqr", exclude_cols=["new"]).training_rows(frame)
    np.testing.assert_array_equal(found, ~fences)
    assert found[11]
    assert not found[7]
    scores = (numbers - numbers.mean()) / numbers.std(ddof=0)
    part = DefaultPreprocessor(outlier_detection=True, outlier_method="zscore", numerical_features=list(numbers))
    np.testing.assert_array_equal(part.training_rows(frame), ~(scores.abs() > 3).any(axis=1))
    part = DefaultPreprocessor(outlier_detection=True, outlier_method="isolation_forest", random_state=4, numerical_features=list(numbers))
    filled = numbers.fillna(numbers.median()).to_numpy(np.float64)
    np.testing.assert_array_equal(part.training_rows(frame), IsolationForest(random_state=4).fit_predict(filled) == 1)
    assert len(part.fit(frame).transform(frame)) == len(frame)


def test_training_rows_are_never_none_at_all() -> None:
    """Nothing to fit on is an error that says so."""
    with pytest.raises(DataError, match="every training row"):
        DefaultPreprocessor(missing_strategy="drop").training_rows(pd.DataFrame({"a": [np.nan, 1.0], "b": [1.0, np.nan]}))


def test_excluded_columns_are_gone_and_the_tasks_own_may_be_named(frame: pd.DataFrame) -> None:
    """The guide excludes the target too, which the task has taken out before; a misspelt name is an error."""
    interface = {"target_col": "churned", "entity_cols": ["user_id"], "timestamp_col": "at"}
    part = DefaultPreprocessor(exclude_cols=["region", "brand", "churned", "user_id", "at"], interface=interface).fit(frame)
    assert part.get_feature_names_out().tolist() == ["price", "reviews", "new", "rating"]
    with pytest.raises(DataError, match="did you mean region"):
        DefaultPreprocessor(exclude_cols=["regoin"], interface=interface).fit(frame)
    with pytest.raises(DataError, match="did you mean price"):
        DefaultPreprocessor(numerical_features=["prize"]).fit(frame)
    with pytest.raises(DataError, match="leaves no column"):
        DefaultPreprocessor(exclude_cols=list(frame.columns)).fit(frame)


def test_columns_that_cannot_become_numbers_are_named(frame: pd.DataFrame) -> None:
    """Time stamps, and text where numbers were promised."""
    with pytest.raises(DataError, match="'day' holds time stamps"):
        DefaultPreprocessor().fit(frame.assign(day=pd.Timestamp("2024-01-01")))
    with pytest.raises(DataError, match="'brand' holds text"):
        DefaultPreprocessor(numerical_features=["brand"]).fit(frame)


def test_steps_put_transformers_of_scikit_learn_in_the_place_of_their_columns(frame: pd.DataFrame) -> None:
    """Triples as ColumnTransformer takes them; a transformer of text gets the text; sparse results become dense."""
    text = pd.Series(["good cheap", "bad", "good"] * 30)
    data = pd.DataFrame({"said": text, "price": frame["price"].fillna(0), "rating": frame["rating"], "reviews": frame["reviews"]})
    squares = {"transformer": PolynomialFeatures(2, include_bias=False), "columns": ["rating", "reviews"]}
    steps: list[Any] = [("words", CountVectorizer(), "said"), squares]
    part = DefaultPreprocessor(steps=steps)
    made = part.fit_transform(data)
    by_hand = np.hstack(
        [
            CountVectorizer().fit_transform(text).toarray(),
            data[["price"]].to_numpy(),
            PolynomialFeatures(2, include_bias=False).fit_transform(data[["rating", "reviews"]]),
        ]
    )
    np.testing.assert_array_equal(made, by_hand)
    np.testing.assert_array_equal(part.transform(data), by_hand)
    assert part.get_feature_names_out().tolist()[:4] == ["words__bad", "words__cheap", "words__good", "price"]
    assert not hasattr(steps[0][1], "vocabulary_")  # the transformer of the recipe stays unfitted
    with pytest.raises(RecipeError, match="name, transformer and columns"):
        DefaultPreprocessor(steps=[("words", CountVectorizer())]).fit(data)


def test_columns_come_in_any_order_and_extra_ones_are_ignored(frame: pd.DataFrame) -> None:
    """A missing one is a DataError with its name."""
    part = DefaultPreprocessor().fit(frame)
    np.testing.assert_array_equal(part.transform(frame[frame.columns[::-1]].assign(more=1)), part.transform(frame))
    with pytest.raises(DataError, match="'brand'"):
        part.transform(frame.drop(columns="brand"))


def test_no_rows_make_an_empty_matrix(frame: pd.DataFrame) -> None:
    """Zero rows in, zero rows out, with all columns."""
    assert DefaultPreprocessor().fit(frame).transform(frame.iloc[:0]).shape == (0, 11)
    with pytest.raises(DataError, match="no rows"):
        DefaultPreprocessor().fit(frame.iloc[:0])


@pytest.mark.parametrize("kind", ["category", "string", "nullable"])
def test_other_types_of_pandas_are_read_as_what_they_mean(frame: pd.DataFrame, kind: str) -> None:
    """Categories and extension types give the matrix of the plain columns."""
    plain = DefaultPreprocessor().fit_transform(frame)
    if kind == "nullable":
        other = frame.astype({"price": "Float64", "reviews": "Int64", "new": "boolean"})
    else:
        other = frame.assign(brand=frame["brand"].astype(kind), region=frame["region"].astype(kind))
    np.testing.assert_array_equal(DefaultPreprocessor().fit_transform(other), plain)


@pytest.mark.parametrize("strategy", ["onehot", "label", "target"])
def test_it_is_an_estimator_of_scikit_learn_that_skops_keeps(frame: pd.DataFrame, target: np.ndarray, strategy: str) -> None:
    """Cloned, put into a Pipeline, written and read back without a type that is not trusted, it says the same to the last bit."""
    part = DefaultPreprocessor(categorical_strategy=strategy, numerical_strategy="standard", random_state=0, interface={"target_col": "y"})
    inside = make_pipeline(clone(part), StandardScaler()).fit(frame, target)
    assert inside[0].n_features_in_ == 6
    part.fit(frame, target)
    read = skops.io.loads(skops.io.dumps(part), trusted=["recipeline.components.preprocessing.DefaultPreprocessor", "numpy.dtype"])
    np.testing.assert_array_equal(read.transform(frame), part.transform(frame))


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"categorical_strategy": "one_hot"}, ("categorical_strategy",)),
        ({"missing_strategy": "zero"}, ("missing_strategy",)),
        ({"exclude_cols": ["a"], "numerical_features": ["a"]}, ("numerical_features",)),
        ({"categorical_features": ["a"], "numerical_features": ["a"]}, ("numerical_features",)),
        ({"outlier_method": "iqr"}, ("outlier_method",)),
        ({"outlier_detection": True, "outlier_threshold": 0}, ("outlier_threshold",)),
        ({"outlier_detection": True, "outlier_method": "isolation_forest", "outlier_threshold": 2}, ("outlier_threshold",)),
        ({"exclude_cols": [3]}, ("exclude_cols", 0)),
    ],
)
def test_mistakes_are_seen_before_any_data(params: dict[str, Any], key: tuple[str | int, ...]) -> None:
    """Unknown strategies, two roles for one column, and arguments that would be ignored."""
    assert [problem.key for problem in DefaultPreprocessor.check(params, {}, "local")] == [key]
    assert DefaultPreprocessor.check({"outlier_detection": False, "outlier_method": "iqr"}, {}, "local") == []


def test_an_unknown_strategy_is_an_error_in_a_program_too(frame: pd.DataFrame) -> None:
    """The check of the recipe holds for who uses the class by hand."""
    with pytest.raises(RecipeError, match=r"numerical_strategy.*standard"):
        DefaultPreprocessor(numerical_strategy="standart").fit(frame)


def test_wide_frames_cost_no_work_per_column() -> None:
    """Twenty times the columns cost far less than twenty times as much: no Python per column beyond looking at its type.

    Compared with itself in one process, the best of several tries each: no clock of the machine is promised.
    """

    def best(width: int) -> float:
        frame = pd.DataFrame(np.random.default_rng(0).normal(size=(64, width)), columns=[f"c{at}" for at in range(width)])
        part = DefaultPreprocessor(numerical_strategy="standard").fit(frame)
        tries = []
        for _ in range(7):
            started = time.perf_counter()
            part.transform(frame)
            tries.append(time.perf_counter() - started)
        return min(tries)

    assert best(400) < 10 * best(20)


# --- texts that hardly are categories ---------------------------------------------------------------------------------


def test_one_hot_columns_are_written_into_one_matrix() -> None:
    """No second copy: the peak stays near the size of the matrix, which equals scikit-learn's."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"x": random.normal(size=4000), "t": random.integers(0, 900, 4000).astype(str), "y": random.normal(size=4000)})
    tracemalloc.start()
    try:
        made = DefaultPreprocessor().fit_transform(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    by_hand = OneHotEncoder(sparse_output=False).fit_transform(frame[["t"]])
    np.testing.assert_array_equal(made, np.hstack([frame[["x"]], by_hand, frame[["y"]]]))
    assert peak < 1.3 * made.nbytes


def test_only_text_gives_a_dense_matrix() -> None:
    """One block, and a sparse one: what comes out is still an array."""
    frame = pd.DataFrame({"t": ["a", "b", "a"]})
    part = DefaultPreprocessor()
    np.testing.assert_array_equal(part.fit_transform(frame), [[1, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(part.transform(pd.DataFrame({"t": ["z", "b"]})), [[0, 0], [0, 1]])


def test_rare_values_share_a_column() -> None:
    """As scikit-learn's `max_categories`; unseen values go there too, and names and saving keep working."""
    frame = pd.DataFrame({"n": np.arange(60.0), "t": ["a"] * 30 + ["b"] * 20 + [f"r{at}" for at in range(10)], "k": ["u", "v"] * 30})
    part = DefaultPreprocessor(max_categories=3)
    made = part.fit_transform(frame)
    encoder = OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist", sparse_output=False)
    np.testing.assert_array_equal(made, np.hstack([frame[["n"]], encoder.fit_transform(frame[["t", "k"]])]))
    assert part.get_feature_names_out().tolist() == ["n", "t_a", "t_b", "t_infrequent_sklearn", "k_u", "k_v"]
    again = skops.io.loads(skops.io.dumps(part), trusted=skops.io.get_untrusted_types(data=skops.io.dumps(part)))
    new = pd.DataFrame({"n": [1.0], "t": ["never seen"], "k": ["u"]})
    np.testing.assert_array_equal(again.transform(new), [[1, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize("most", [1, 0, True, "3"])
def test_max_categories_is_a_number_above_one(most: Any) -> None:
    """Anything else, or another strategy beside it, is said before data are read."""
    assert [problem.key for problem in DefaultPreprocessor.check({"max_categories": most}, {}, "local")] == [("max_categories",)]
    assert DefaultPreprocessor.check({"max_categories": 5}, {}, "local") == []
    assert [problem.slug for problem in DefaultPreprocessor.check({"max_categories": 5, "categorical_strategy": "label"}, {}, "local")] == [
        "ignored"
    ]


@pytest.mark.parametrize(("columns", "bytes_"), [(150, preprocessing.LARGEST), (preprocessing.WIDEST, 100_000)])
def test_a_matrix_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, columns: int, bytes_: int) -> None:
    """By columns or by bytes, with the column, the numbers and what to do; other strategies and rare values together pass."""
    monkeypatch.setattr(preprocessing, "WIDEST", columns)
    monkeypatch.setattr(preprocessing, "LARGEST", bytes_)
    frame = pd.DataFrame({"sex": ["m", "f"] * 100, "customer": [f"c{at}" for at in range(200)]})
    with pytest.raises(DataError, match=r"makes 202 columns .*200 of them of column 'customer'; exclude_cols: \[customer\]") as caught:
        DefaultPreprocessor().fit(frame)
    assert caught.value.slug == "too-many-categories"
    assert DefaultPreprocessor(max_categories=10).fit_transform(frame).shape == (200, 12)
    assert DefaultPreprocessor(categorical_strategy="label").fit_transform(frame).shape == (200, 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([str(age) for age in range(20, 60)] + ["?"], "is taken for text because of '?': 40 of its 41 different values are numbers"),
        (["12.03.2024", "1.4.2024", "30.11.2023"], "look like dates, as '12.03.2024'"),
        (["3/4/2024", "12/31/2023 10:30", "1/1/2024"], "look like dates"),
        (["$12.50", "$1,300.00", "$7"], "look like amounts, as '$12.50'"),
        (["12,5", "13,75", "1"], "look like amounts, as '12,5'"),
        (["12 %", "13 %", "7 %"], "look like amounts"),
        ([f"note {at}" for at in range(300)], "has 300 different texts in 300 rows"),
        ([f"zip {at % 120}" for at in range(600)], "has 120 different texts and becomes 120 columns"),
        (["a", "b", None], ""),
        (["1a", "2b", "3c"], ""),
        (["10", "20", "30"], ""),
        ([f"zip {at % 100}" for at in range(600)], ""),
    ],
)
def test_a_text_that_is_no_category_is_remarked(values: list[Any], said: str) -> None:
    """One line with the column and what to do; none where nothing is odd, and none for a column that is meant so."""
    frame = pd.DataFrame({"x": values, "number": 1.0})
    remarks = DefaultPreprocessor().remarks(frame)
    assert len(remarks) == bool(said)
    if said:
        assert said in remarks[0]
        assert remarks[0].startswith("column 'x' ")
        assert "\n" not in remarks[0]
    assert DefaultPreprocessor(categorical_features=["x"]).remarks(frame) == []
