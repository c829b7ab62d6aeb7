"""The task `causal`: what it takes, what it refuses, what it finds where the truth is known, and every road to a prediction."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor

import recipeline
from recipeline import artifact, registry, settings
from recipeline.components.causal import Causal, CausalInterface
from recipeline.components.metalearners import ConstantEffect, SLearner, TLearner
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.components.splitters import CrossValidation, TrainTestSplit
from recipeline.components.uplift import UPLIFT
from recipeline.components.uplift_evaluator import UpliftEvaluator, balanced, predictability
from recipeline.contracts import FitContext, Part
from recipeline.errors import Damaged, DataError, RecipeError, Refused
from recipeline.pipeline import Pipeline
from recipeline.registry import AllowList
from recipeline.settings import NAMESPACES

PROJECT = Path(__file__).parents[1]
QINI = UPLIFT[0].function


def task_of(**keys: Any) -> Causal:
    return Causal(CausalInterface.model_validate({"target_col": "y", "treatment_col": "w", **keys}))


def trial(n: int = 600, seed: int = 0, *, effect: float = 1.0, treatments: int = 1, binary: bool = False) -> pd.DataFrame:
    """A randomised trial: treatment k adds `effect` times the k-th of a, b, c; d moves the outcome of everybody."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(n, 4)), columns=list("abcd"))
    arm = random.integers(0, treatments + 1, n)
    added = effect * np.where(arm > 0, frame.to_numpy()[np.arange(n), np.maximum(arm - 1, 0)], 0.0)
    y = frame["d"].to_numpy() + added + random.normal(size=n)
    frame["w"] = arm
    frame["y"] = (y > 0).astype(int) if binary else y
    frame.insert(0, "id", [f"r{row}" for row in range(n)])
    return frame


def fitted(task: Causal, frame: pd.DataFrame, model: Any, folder: Path) -> Pipeline:
    schema = task.describe(frame)
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=DefaultPreprocessor())
    return pipeline.fit(task.select(frame, schema, targets=True), FitContext(42, folder))


def judged(pipeline: Pipeline, frame: pd.DataFrame, *metrics: str, **options: Any) -> Any:
    selected = pipeline.task.select(frame, pipeline.schema, targets=True)
    evaluator = UpliftEvaluator(interface=pipeline.task.interface.model_dump(), **options)
    return evaluator.judge(pipeline, Part(frame, selected, metrics or ("qini",), seed=1))


# --- what comes out ---------------------------------------------------------------------------------------


def test_effects_of_one_treatment(tmp_path: Path) -> None:
    """Keys and `effect`; neither treatment nor outcome is needed, nor used, at prediction."""
    frame = trial()
    pipeline = fitted(task_of(entity_cols="id"), frame, TLearner(LinearRegression()), tmp_path)
    assert pipeline.schema.features == ("a", "b", "c", "d")
    output = pipeline.predict(frame)
    assert list(output.columns) == ["id", "effect"]
    assert np.corrcoef(output["effect"], frame["a"])[0, 1] > 0.9
    bare = frame.drop(columns=["w", "y"])
    pd.testing.assert_frame_equal(pipeline.predict(bare), output, check_exact=True)
    pd.testing.assert_frame_equal(pipeline.predict(frame.assign(w=1 - frame["w"], y=7.0)), output, check_exact=True)
    assert list(pipeline.predict(bare.head(0)).columns) == ["id", "effect"]


def test_effects_of_several_treatments(tmp_path: Path) -> None:
    """One column each, in the order of the sorted treatments, and metrics of each beside the mean."""
    frame = trial(2400, treatments=3)
    frame["w"] = np.array(["none", "mail", "call", "visit"], dtype=object)[frame["w"]]
    pipeline = fitted(task_of(control="none"), frame, TLearner(LinearRegression()), tmp_path)
    output = pipeline.predict(frame)
    assert list(output.columns) == ["effect_call", "effect_mail", "effect_visit"]
    for treatment, feature in (("mail", "a"), ("call", "b"), ("visit", "c")):
        assert np.corrcoef(output[f"effect_{treatment}"], frame[feature])[0, 1] > 0.8
    found = judged(pipeline, frame, "qini", "ate_error")
    assert set(found.metrics) == {f"{metric}{arm}" for metric in ("qini", "ate_error") for arm in ("", "_call", "_mail", "_visit")}
    assert found.metrics["qini"] == pytest.approx(np.mean([found.metrics[f"qini_{arm}"] for arm in ("call", "mail", "visit")]))


def test_a_t_learner_is_two_models_by_hand() -> None:
    """And its effect is their difference; a classifier's by the probability of 1."""
    frame = trial(binary=True)
    X, y, w = frame[list("abcd")], frame["y"].to_numpy(), frame["w"].to_numpy()
    found = TLearner(LogisticRegression()).fit(X, y, treatment=w).predict(X)
    one, other = (LogisticRegression().fit(X[w == arm], y[w == arm]).predict_proba(X)[:, 1] for arm in (1, 0))
    np.testing.assert_array_equal(found, (one - other)[:, None])


def test_an_s_learner_is_one_model_by_hand() -> None:
    """Asked twice, once as if everybody were treated."""
    frame = trial()
    X, y, w = frame[list("abcd")].to_numpy(), frame["y"].to_numpy(), frame["w"].to_numpy()
    found = SLearner(RandomForestRegressor(5, random_state=0)).fit(X, y, treatment=w).predict(X)
    model = RandomForestRegressor(5, random_state=0).fit(np.column_stack([X, w]), y)
    expected = model.predict(np.column_stack([X, np.ones(len(X))])) - model.predict(np.column_stack([X, np.zeros(len(X))]))
    np.testing.assert_array_equal(found[:, 0], expected)


def test_an_arm_with_one_outcome_only_still_has_a_probability() -> None:
    """Nobody of the controls bought: their probability is 0, not an error."""
    X, w = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    y = np.where(w == 1, (X[:, 0] > 0).astype(int), 0)
    from sklearn.naive_bayes import GaussianNB

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = TLearner(GaussianNB()).fit(X, y, treatment=w).predict(X)
    np.testing.assert_array_equal(found[:, 0], GaussianNB().fit(X[w == 1], y[w == 1]).predict_proba(X)[:, 1])


@pytest.mark.parametrize("learner", [TLearner, SLearner])
def test_weights_reach_what_learns(learner: Any) -> None:
    """A row of weight two is two rows."""
    frame = trial(200)
    X, y, w = frame[list("abcd")].to_numpy(), frame["y"].to_numpy(), frame["w"].to_numpy()
    weight = np.random.default_rng(1).integers(1, 4, 200)
    twice = np.repeat(np.arange(200), weight)
    found = learner(LinearRegression()).fit(X, y, treatment=w, sample_weight=weight.astype(float)).predict(X)
    np.testing.assert_allclose(found, learner(LinearRegression()).fit(X[twice], y[twice], treatment=w[twice]).predict(X), atol=1e-10)


def test_the_constant_effect_is_the_difference_of_means() -> None:
    """For every row."""
    frame = trial(100)
    w, y = frame["w"].to_numpy(), frame["y"].to_numpy()
    found = ConstantEffect().fit(frame[["a"]], y, treatment=w).predict(frame[["a"]])
    np.testing.assert_allclose(found, np.full((100, 1), y[w == 1].mean() - y[w == 0].mean()))


# --- who is who -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "control", "arms"),
    [
        ([0, 1], None, [0, 1]),
        ([False, True], None, [False, True]),
        (["treated", "control"], None, ["control", "treated"]),
        (["a", "b", "control"], None, ["control", "a", "b"]),
        (["mail", "none"], "none", ["none", "mail"]),
        ([1, 2, 3], 2, [2, 1, 3]),
        ([0.0, 1.0], None, [0, 1]),
        (["0", "1"], None, ["0", "1"]),
    ],
)
def test_the_controls_are_named_or_say_so_themselves(values, control, arms) -> None:
    """`control`, 0 and false are known; anything else has to be named."""
    frame = trial(60)
    frame["w"] = [values[row % len(values)] for row in range(60)]
    task = task_of(control=control)
    assert task.arms(task.describe(frame)) == tuple(arms)


@pytest.mark.parametrize(
    ("make", "slug", "words"),
    [
        (lambda frame: frame.drop(columns="w"), "missing-column", "treatment_col: the data have no column 'w'"),
        (lambda frame: frame.assign(w=1), "one-arm", "is 1 in every row"),
        (lambda frame: frame.assign(w=frame["w"] + 1), "no-control", "which value of 'w' stands for the controls?"),
        (lambda frame: frame.assign(w=frame["w"].where(frame.index != 3)), "null-treatment", "null in 1 of 60 rows: 3"),
        (lambda frame: frame.assign(w=frame["a"]), "bad-treatment", "float64"),
        (lambda frame: frame.assign(w=np.arange(60)), "bad-treatment", "60 different values"),
        (lambda frame: frame.assign(y=1.0), "one-class", "in every row"),
        (lambda frame: frame.assign(y=[f"t{row % 3}" for row in range(60)]), "bad-target", "3 different texts"),
        (lambda frame: frame.assign(y=frame["y"].where(frame.index != 5)), "null-target", "the first in row 5"),
    ],
)
def test_data_that_show_no_effect_are_refused(make, slug, words) -> None:
    """Each with a slug of its own, and what to do."""
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        task_of().describe(make(trial(60)))
    assert caught.value.slug == slug
    assert caught.value.hint


def test_a_control_that_nobody_is_is_refused_with_the_values() -> None:
    """And the nearest of them."""
    frame = trial(60)
    frame["w"] = np.where(frame["w"] == 1, "mail", "nobody")
    with pytest.raises(DataError, match="no row of 'w' is 'nobdy', the control") as caught:
        task_of(control="nobdy").describe(frame)
    assert "did you mean nobody?" in str(caught.value)
    with pytest.raises(DataError, match="no row of 'w' is False"):
        task_of(control=False).describe(trial(60))


def test_rows_judged_with_a_treatment_of_their_own_are_refused() -> None:
    """It is said which, and what training had."""
    frame = trial(60)
    task = task_of()
    schema = task.describe(frame)
    with pytest.raises(DataError, match="2 was not there in training"):
        task.select(frame.assign(w=2), schema, targets=True)
    with pytest.raises(DataError, match=r"null in 2 of 60 rows: 4, 9"):
        task.select(frame.assign(w=frame["w"].where(~frame.index.isin([4, 9]))), schema, targets=True)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"treatment_col": "y"}, "y is the treatment and cannot be in target_col"),
        ({"entity_cols": "w"}, "w is the treatment and cannot be in entity_cols"),
        ({"propensity": "w"}, "w is the treatment and cannot be in propensity"),
        ({"propensity": "y"}, "y is the propensity and cannot be in target_col"),
        ({"propensity": 1.0}, "a number between 0 and 1"),
        ({"propensity": True}, "a number between 0 and 1"),
        ({"control": [0]}, "one value of the column expected"),
    ],
)
def test_a_column_has_one_role(keys, words) -> None:
    """Known before any data is read."""
    with pytest.raises(ValidationError, match=re.escape(words)):
        task_of(**keys)


def test_two_outcomes_may_be_texts() -> None:
    """The last of the sorted ones counts as 1, or the one that is named."""
    frame = trial(60, binary=True)
    frame["y"] = np.where(frame["y"] == 1, "bought", "left")
    for named, last in ((None, "left"), ("bought", "bought")):
        task = task_of(positive_class=named)
        schema = task.describe(frame)
        np.testing.assert_array_equal(task.select(frame, schema, targets=True).y, frame["y"] == last)
    with pytest.raises(DataError, match="'sold' is not an outcome"):
        task_of(positive_class="sold").describe(frame)
    with pytest.raises(DataError, match="positive_class needs two outcomes"):
        task_of(positive_class=1).describe(trial(60))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("splitter", [TrainTestSplit(random_state=0), CrossValidation(3, random_state=0)], ids=["one cut", "folds"])
def test_splits_keep_the_shares_of_the_arms(binary, splitter) -> None:
    """And of two outcomes in each arm, inside as outside; to one row."""
    frame = trial(400, binary=binary)
    frame.loc[frame.index[:350], "w"] = 0
    frame.loc[frame.index[350:], "w"] = 1
    task = task_of()
    selected = task.select(frame, task.describe(frame), targets=True)
    assert set(selected.extras["strata"]) == ({"0: 0", "0: 1", "1: 0", "1: 1"} if binary else {"0", "1"})
    split = splitter.split(selected, task)
    assert set(split.audit["borders"][0]["classes"]) == set(selected.extras["strata"])
    for fold in (*split.folds, *splitter.inner(selected, task, 3)):
        for stratum in np.unique(selected.extras["strata"]):
            inside = selected.extras["strata"] == stratum
            share = inside.sum() * len(fold.test) / len(frame)
            assert abs(inside[fold.test].sum() - share) <= 1.0
    loose = TrainTestSplit(stratify=False, random_state=0).split(selected, task)
    strict = TrainTestSplit(random_state=0).split(selected, task)
    assert not np.array_equal(loose.folds[0].test, strict.folds[0].test)


def test_a_rare_outcome_does_not_forbid_a_split() -> None:
    """Where a pair of arm and outcome is rare, the arms alone are kept."""
    frame = trial(200)
    frame["y"] = (np.arange(200) < 3).astype(int)
    task = task_of()
    assert set(task.select(frame, task.describe(frame), targets=True).extras["strata"]) == {"0", "1"}


# --- models -----------------------------------------------------------------------------------------------


def test_a_model_without_treatment_is_refused(tmp_path: Path) -> None:
    """With the words that mend it."""
    with pytest.raises(RecipeError, match="LinearRegression takes no treatment in fit") as caught:
        fitted(task_of(), trial(60), LinearRegression(), tmp_path)
    assert "t_learner" in str(caught.value)


def test_rows_that_lack_an_arm_are_refused(tmp_path: Path) -> None:
    """A fold without controls teaches nothing."""
    frame = trial(60)
    task = task_of()
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True)
    treated = selected.take(np.flatnonzero(selected.extras["treatment"] == 1))
    with pytest.raises(DataError, match="of the arms only number 1"):
        task.fit(TLearner(LinearRegression()), treated, FitContext(42, tmp_path))


def test_weights_are_taken_or_refused(tmp_path: Path) -> None:
    """By the meta-learner and by what learns inside."""
    frame = trial(80).assign(weight=1.0)
    task = task_of(sample_weight_col="weight")
    assert fitted(task, frame, TLearner(LinearRegression()), tmp_path).schema.features == ("id", "a", "b", "c", "d")
    with pytest.raises(RecipeError, match="KNeighborsRegressor, the learner of TLearner, takes no sample weights"):
        fitted(task, frame, TLearner(KNeighborsRegressor()), tmp_path)
    with pytest.raises(RecipeError, match="BaseTRegressor takes no sample weights in fit"):
        fitted(task, frame, causalml("BaseTRegressor", learner=LinearRegression()), tmp_path)
    task = task_of(sample_weight_col="weight", propensity=0.5)
    weighted = fitted(task, frame, causalml("BaseRRegressor", learner=LinearRegression(), random_state=0), tmp_path)
    uneven = frame.assign(weight=np.linspace(0.01, 3, 80))
    again = fitted(task, uneven, causalml("BaseRRegressor", learner=LinearRegression(), random_state=0), tmp_path)
    assert not weighted.predict(frame).equals(again.predict(frame))


def causalml(name: str, **arguments: Any) -> Any:
    made = registry.find("model", f"causalml.inference.meta.{name}", AllowList.of(NAMESPACES))
    return made(**arguments)


META = {
    "BaseTRegressor": (lambda: {"learner": LinearRegression()}, False),
    "BaseSRegressor": (lambda: {"learner": GradientBoostingRegressor(n_estimators=5, random_state=0)}, False),
    "BaseXRegressor": (lambda: {"learner": LinearRegression()}, False),
    "BaseRRegressor": (lambda: {"learner": LinearRegression(), "random_state": 1}, False),
    "BaseDRRegressor": (lambda: {"learner": LinearRegression()}, False),
    "XGBTRegressor": (lambda: {"n_estimators": 5, "n_jobs": 1, "random_state": 1}, False),
    "XGBRRegressor": (lambda: {"effect_learner_n_estimators": 5, "random_state": 1}, False),
    "MLPTRegressor": (lambda: {"max_iter": 5, "random_state": 1}, False),
    "BaseTClassifier": (lambda: {"learner": LogisticRegression()}, True),
    "BaseXClassifier": (lambda: {"outcome_learner": LogisticRegression(), "effect_learner": LinearRegression()}, True),
    "XGBTClassifier": (lambda: {"xgb_kwargs": {"n_estimators": 5, "n_jobs": 1}}, True),
}


@pytest.mark.parametrize("propensity", [None, 0.4, "p"])
@pytest.mark.parametrize("name", META)
def test_causalml_learns_and_is_read_back_bit_for_bit(name, propensity, tmp_path, capfd) -> None:
    """Fitted twice alike, kept by skops without a pickle, read back equal; without a word on stdout."""
    arguments, binary = META[name]
    frame = trial(240, binary=binary).drop(columns="id").assign(p=np.linspace(0.3, 0.7, 240))
    task = task_of(propensity=propensity)
    if propensity != "p":
        frame = frame.drop(columns="p")
    capfd.readouterr()
    first, second = (fitted(task, frame, causalml(name, **arguments()), tmp_path) for _ in range(2))
    output = first.predict(frame.drop(columns=["w", "y", "p"], errors="ignore"))
    pd.testing.assert_frame_equal(second.predict(frame), output, check_exact=True)
    assert output["effect"].nunique() > 1
    artifact.keep(first.model, tmp_path / "kept", "model", "test")
    assert (tmp_path / "kept" / "part.skops").is_file()
    read = artifact.take_up(tmp_path / "kept", "model", "test", lambda path: registry.resolve(path, AllowList.of(NAMESPACES)))
    again = Pipeline(task=task, schema=first.schema, model=read, preprocessor=first.preprocessor)
    pd.testing.assert_frame_equal(again.predict(frame), output, check_exact=True)
    assert capfd.readouterr().out == ""


def test_causalml_takes_several_treatments(tmp_path: Path) -> None:
    """Effects (n, t), each after its own feature."""
    frame = trial(900, treatments=2)
    output = fitted(task_of(), frame.drop(columns="id"), causalml("BaseTRegressor", learner=LinearRegression()), tmp_path).predict(frame)
    assert list(output.columns) == ["effect_1", "effect_2"]
    assert np.corrcoef(output["effect_2"], frame["b"])[0, 1] > 0.9


def test_our_t_learner_is_causalmls(tmp_path: Path) -> None:
    """The same two models, the same bits."""
    frame = trial(300).drop(columns="id")
    ours = fitted(task_of(), frame, TLearner(LinearRegression()), tmp_path).predict(frame)
    theirs = fitted(task_of(), frame, causalml("BaseTRegressor", learner=LinearRegression()), tmp_path).predict(frame)
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_a_control_of_the_models_own_is_refused(tmp_path: Path) -> None:
    """There is one place to name the controls."""
    with pytest.raises(RecipeError, match="leave control_name out"):
        fitted(task_of(), trial(60), causalml("BaseTRegressor", learner=LinearRegression(), control_name="control"), tmp_path)


def test_what_skops_refuses_is_pickled_under_our_signature(tmp_path: Path) -> None:
    """LRSRegressor holds results of statsmodels: kept, and read only where pickles may be."""
    frame = trial(100).drop(columns="id")
    pipeline = fitted(task_of(), frame, causalml("LRSRegressor"), tmp_path)
    artifact.keep(pipeline.model, tmp_path / "kept", "model", "test")

    def find(path: str) -> Any:
        return registry.resolve(path, AllowList.of(NAMESPACES))

    with pytest.raises(Refused, match="is a pickle"):
        artifact.take_up(tmp_path / "kept", "model", "test", find)
    read = artifact.take_up(tmp_path / "kept", "model", "test", find, pickles=True)
    again = Pipeline(task=pipeline.task, schema=pipeline.schema, model=read, preprocessor=pipeline.preprocessor)
    pd.testing.assert_frame_equal(again.predict(frame), pipeline.predict(frame), check_exact=True)


def test_trees_that_name_their_groups_by_text_are_refused(tmp_path: Path) -> None:
    """With what to use instead."""
    model = registry.find("model", "causalml.inference.tree.UpliftRandomForestClassifier", AllowList.of(NAMESPACES))(control_name="control")
    with pytest.raises(RecipeError, match="names its groups by text"):
        fitted(task_of(), trial(60, binary=True), model, tmp_path)


def test_causalmls_own_pickles_are_never_read(tmp_path: Path) -> None:
    """Its `load` unpickles: a part that claims to keep itself that way is damaged, whatever stands in its folder."""
    artifact.files.write_json(
        tmp_path / "part.json",
        {"role": "model", "class": "causalml.inference.meta.BaseTRegressor", "binding": "b", "format": "own"},
    )
    with pytest.raises(Damaged, match="BaseTRegressor, which does not keep itself"):
        artifact.take_up(tmp_path, "model", "b", lambda path: registry.resolve(path, AllowList.of(NAMESPACES)), pickles=True)


# --- what is found where the truth is known ---------------------------------------------------------------


def test_where_there_is_no_effect_none_is_found(tmp_path: Path) -> None:
    """Sealed Qini of a T-learner over 40 trials without an effect: its mean is 0 within two standard errors."""
    found = []
    for seed in range(40):
        frame = trial(400, seed, effect=0.0).drop(columns="id")
        pipeline = fitted(task_of(), frame.head(200), TLearner(LinearRegression()), tmp_path)
        found.append(judged(pipeline, frame.tail(200), resamples=0).metrics["qini"])
    assert abs(np.mean(found)) < 2 * np.std(found, ddof=1) / np.sqrt(len(found))


@pytest.mark.parametrize("model", [TLearner(LinearRegression()), SLearner(GradientBoostingRegressor(random_state=0))], ids=["T", "S"])
def test_an_effect_is_found(model, tmp_path) -> None:
    """The ranking is nearly that of the true effect, and the size of the effects is right."""
    frame = trial(6000, 1).drop(columns="id")
    train, test = frame.head(3000), frame.tail(3000)
    pipeline = fitted(task_of(), train, model, tmp_path)
    selected = pipeline.task.select(test, pipeline.schema, targets=True)
    truth = pipeline.task.observed(pipeline.predict(test), selected, pipeline.schema).actual
    oracle = QINI(truth, test[["a"]].to_numpy())
    reached = judged(pipeline, test, resamples=0).metrics["qini"]
    assert 0.9 * oracle < reached < 1.1 * oracle
    assert np.sqrt(np.mean((pipeline.predict(test)["effect"].to_numpy() - test["a"].to_numpy()) ** 2)) < 0.5


def test_an_unfair_draw_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Treatment that the features predict is warned of; a fair one, and one whose propensity is given, is not."""
    frame = trial(2000, 2).drop(columns="id")
    random = np.random.default_rng(0)
    chance = 1 / (1 + np.exp(-frame["a"]))
    unfair = frame.assign(w=(random.random(2000) < chance).astype(int), p=chance)
    for rows, keys, warned in ((frame, {}, False), (unfair.drop(columns="p"), {}, True), (unfair, {"propensity": "p"}, False)):
        caplog.clear()
        found = judged(fitted(task_of(**keys), rows, TLearner(LinearRegression()), tmp_path), rows)
        assert ("not drawn by lot" in caplog.text) == warned
        table = found.tables["balance"].set_index("feature")
        assert (table["difference"].abs().max() > 0.3) == (rows is not frame)
        if keys:
            assert abs(table.loc["a", "weighted"]) < 0.2 < abs(table.loc["a", "difference"])


def test_the_warning_is_seldom_wrong() -> None:
    """In fair trials the AUC varies about 0.5 as much as it says, so that three standard deviations are seldom passed."""
    found = []
    for seed in range(150):
        frame = trial(200, seed)
        told = predictability(frame[list("abcd")], np.column_stack([frame["y"], frame["w"], np.ones(200)]), 1)
        assert told is not None
        found.append((told.auc - 0.5) / told.chance)
    assert abs(np.mean(found)) < 3 / np.sqrt(len(found))
    assert 0.85 < np.std(found) < 1.15
    assert np.mean(np.array(found) > 3) < 0.02


def test_balance_is_the_standardised_difference() -> None:
    """By hand; texts as one indicator per value, nulls with an indicator beside them."""
    X = pd.DataFrame({"a": [1.0, 3.0, 2.0, 6.0], "city": ["x", "y", "x", "x"], "n": [1.0, np.nan, 1.0, 1.0]})
    table = balanced(X, np.array([[0, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 1]], dtype=float), ["t"]).set_index("feature")
    assert list(table.index) == ["a", "city=x", "city=y", "n", "n is null"]
    assert table.loc["a", "difference"] == pytest.approx(2 / np.sqrt((1 + 4) / 2))
    assert table.loc["n", "difference"] == 0
    assert table.loc["n is null", "difference"] == pytest.approx(-0.5 / np.sqrt(0.25 / 2))


def test_intervals_hold_what_they_promise(tmp_path: Path) -> None:
    """Of 60 samples of sealed rows, most intervals of 95 % hold the Qini of a very large sample."""
    pipeline = fitted(task_of(), trial(2000, 100).drop(columns="id"), TLearner(LinearRegression()), tmp_path)
    large = judged(pipeline, trial(200_000, 101).drop(columns="id"), resamples=0).metrics["qini"]
    held = 0
    for seed in range(60):
        table = judged(pipeline, trial(300, 200 + seed).drop(columns="id"), resamples=100).tables["uplift_intervals"].set_index("metric")
        held += table.loc["qini", "low"] <= large <= table.loc["qini", "high"]
    assert 49 <= held <= 60


@pytest.mark.parametrize("treatments", [1, 2])
def test_tables_and_pictures(treatments, tmp_path) -> None:
    """They agree with the metrics, and every picture can be drawn."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    frame = trial(500, treatments=treatments).assign(city=["x", "y"] * 250)
    found = judged(fitted(task_of(entity_cols="id"), frame, TLearner(LinearRegression()), tmp_path), frame, "qini", "auuc")
    tables = found.tables
    assert {"predictions", "arms", "uplift_intervals", "uplift_curve", "effect_groups", "balance"} == set(tables)
    qini = tables["uplift_intervals"].query("metric == 'qini'")
    assert qini["value"].mean() == pytest.approx(found.metrics["qini"])
    assert (qini["low"] < qini["value"]).all()
    assert (qini["value"] < qini["high"]).all()
    assert tables["arms"]["rows"].sum() == 500
    groups = tables["effect_groups"]
    assert groups.groupby("treatment")["group"].max().eq(10).all()
    assert (groups["treated"] + groups["controls"]).equals(groups["rows"])
    assert list(tables["predictions"]["w"]) == frame["w"].tolist()
    for figure in found.figures.values():
        axes = Figure().subplots()
        figure.draw(axes)
        axes.figure.canvas.draw()


def test_groups_are_not_torn_by_ties(tmp_path: Path) -> None:
    """A constant prediction is one group, whose observed effect is the average one."""
    frame = trial(300)
    found = judged(fitted(task_of(entity_cols="id"), frame, ConstantEffect(), tmp_path), frame)
    (line,) = found.tables["effect_groups"].to_dict("records")
    difference = frame.loc[frame["w"] == 1, "y"].mean() - frame.loc[frame["w"] == 0, "y"].mean()
    assert line["rows"] == 300
    assert line["observed"] == pytest.approx(difference)
    assert line["low"] < difference < line["high"]


def test_weighted_figures_need_weights(tmp_path: Path) -> None:
    """And change with them; by default they do not weigh."""
    frame = trial(300).assign(weight=np.linspace(0.1, 3, 300))
    pipeline = fitted(task_of(entity_cols="id", sample_weight_col="weight"), frame, TLearner(LinearRegression()), tmp_path)
    assert judged(pipeline, frame, weighted=True).metrics["qini"] != judged(pipeline, frame).metrics["qini"]
    without = frame.drop(columns="weight")
    with pytest.raises(RecipeError, match="sample_weight_col"):
        judged(fitted(task_of(entity_cols="id"), without, TLearner(LinearRegression()), tmp_path), without, weighted=True)


# --- recipes, commands, the server ------------------------------------------------------------------------


def write_module() -> Any:
    found = importlib.util.spec_from_file_location("write", PROJECT / "recipes" / "data" / "write.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["coupon_t_learner", "coupon_x_learner"])
def test_a_shipped_recipe_finds_the_known_effect(name: str, command: Callable[..., Any], project: Path) -> None:
    """Trained, its run beats targeting at random; for customers nobody asked yet, what it says goes with the truth."""
    answer = command("train", "--recipe-file", f"recipes/causal/{name}.yaml", "--set", "execution.report=false", "--json")
    assert answer.code == 0, answer
    run = answer.json
    assert run["metrics"]["qini"] > 0.01
    assert run["baselines"]["average_effect"]["qini"] == 0
    intervals = pd.read_parquet(Path(run["artifact"]) / "tables" / "uplift_intervals.parquet").set_index("metric")
    assert intervals.loc["qini", "low"] > 0
    assert json.loads((Path(run["artifact"]) / "parts" / "model" / "part.json").read_text())["format"] == "skops"
    batch = command(
        "batch-inference", "--run-id", run["run_id"], "--input", "recipes/data/coupons_new.csv", "--output", "out/new.csv", "--json"
    )
    assert batch.code == 0, batch
    new, said = pd.read_csv(project / "recipes/data/coupons_new.csv"), pd.read_csv(project / "out/new.csv")
    assert list(said.columns) == ["customer_id", "effect"]
    assert len(said) == len(new) == batch.json["rows"]
    assert np.corrcoef(said["effect"], write_module().coupon_effect(new))[0, 1] > 0.5
    scored = command("batch-inference", "--run-id", run["run_id"], "--output", "out/all.parquet", "--evaluate", "--json")
    assert scored.code == 0, scored
    assert set(scored.json["metrics"]) == set(run["metrics"])


def test_two_causal_runs_are_compared_with_intervals(command: Callable[..., Any], project: Path) -> None:
    """On the same sealed rows, from the tables that both kept."""
    runs = []
    for depth in (1, 4):
        text = (project / "recipes/causal/coupon_t_learner.yaml").read_text()
        text = text.replace("n_estimators: 100, min_samples_leaf: 40", f"n_estimators: 20, max_depth: {depth}")
        (project / "recipes/causal/mine.yaml").write_text(text)
        answer = command("train", "--recipe-file", "recipes/causal/mine.yaml", "--set", "execution.report=false", "--json")
        assert answer.code == 0, answer
        runs.append(answer.json["run_id"])
    compared = command("compare", *runs, "--json")
    assert compared.code == 0, compared
    (qini,) = [row for row in compared.json["metrics"] if row["metric"] == "qini"]
    assert qini["interval"][0] <= qini["difference"] <= qini["interval"][1]


def test_served_effects_are_those_of_the_library(project: Path, nursery: Any) -> None:
    """By HTTP, bit for bit, without treatment or outcome in the question; a broken row is refused."""
    (project / "config" / "local.yaml").write_text("api_serving: {enabled: true}\nexecution: {report: false}\n")
    trained = nursery.run(project, "train", "--recipe-file", "recipes/causal/coupon_t_learner.yaml", "--json")
    assert trained.code == 0, trained
    server = nursery.start(project, "serve-api", "--run-id", trained.json["run_id"], "--port", "0")
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", server.out.read_text())) and time.monotonic() < end:
            time.sleep(0.02)
        assert found, server.err.read_text()
        rows = pd.read_csv(project / "recipes/data/coupons_new.csv").head(20)
        answer = httpx.post(f"{found.group()}/predict", json=json.loads(rows.to_json(orient="records")), timeout=30)
        assert answer.status_code == 200, answer.text
        expected = recipeline.load(Path(trained.json["artifact"]), settings=settings.load(project=project, environ={})).predict(rows)
        assert [one["effect"] for one in answer.json()["predictions"]] == expected["effect"].tolist()
        refused = httpx.post(f"{found.group()}/predict", json=[{"visits": "many"}], timeout=30)
        assert refused.status_code == 422
    finally:
        assert nursery.stop(server) in (0, 143)


MISTAKES = {
    "TRegressor": ("causalml.inference.meta.BaseXRegressor", "causalml.inference.meta.TRegressor", "causalml.inference.meta.XGBTRegressor"),
    "SRegressor": ("causalml.inference.meta.BaseXRegressor", "causalml.inference.meta.SRegressor", "causalml.inference.meta.LRSRegressor"),
    "argument": ("    learner:", "    lerner:", "did you mean learner?"),
    "key": ("    treatment_col: coupon", "    treatmentcol: coupon", "did you mean treatment_col?"),
    "metric": ("metrics: [qini", "metrics: [quini", "did you mean qini?"),
    "other task": ("metrics: [qini", "metrics: [accuracy", "accuracy is a metric of classification"),
    "propensity": ("propensity: 0.5", "propensity: 1.5", "a number between 0 and 1"),
    "direction": ("direction: maximize", "direction: minimize", "qini is better when it is larger"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_refused_before_any_data(name: str, command: Callable[..., Any], project: Path) -> None:
    """Exit 3 with the line, the key, and the word that was meant."""
    old, new, said = MISTAKES[name]
    path = project / "recipes/causal/coupon_x_learner.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    shutil.rmtree(project / "recipes" / "data")
    answer = command("validate", "--recipe-file", path, "--json")
    assert answer.code == 3, answer
    (error,) = [one for one in answer.json["errors"] if said in f"{one['message']}; {one['suggestion']} {answer.err}"]
    assert error["line"] == path.read_text()[: path.read_text().index(new.strip())].count("\n") + 1
    assert said in answer.err + answer.out


def test_a_misspelt_argument_of_a_wrapper_is_noticed(command: Callable[..., Any], project: Path) -> None:
    """XGBTRegressor hands `**kwargs` on to XGBRegressor: what that takes is known."""
    text = (project / "recipes/causal/coupon_t_learner.yaml").read_text()
    head, tail = text.split("  class_path: t_learner\n")[0], text[text.index("  loader:") :]
    path = project / "recipes/causal/mine.yaml"
    path.write_text(
        f"{head}  class_path: causalml.inference.meta.XGBTRegressor\n  hyperparameters: {{n_estimatorz: 5, max_depth: 2}}\n{tail}"
    )
    answer = command("validate", "--recipe-file", path)
    assert answer.code == 3
    assert "did you mean n_estimators?" in answer.err + answer.out
    path.write_text(path.read_text().replace("n_estimatorz", "n_estimators"))
    assert command("validate", "--recipe-file", path).code == 0


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    """Exit 3, one line."""
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "causalml"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == "causalml":
                raise ModuleNotFoundError("No module named 'causalml'", name="causalml")

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    answer = command("validate", "--recipe-file", "recipes/causal/coupon_x_learner.yaml")
    assert answer.code == 3
    assert "pip install 'recipeline[causal]'" in answer.err + answer.out


def test_causalml_is_imported_only_where_a_recipe_names_it(process: Callable[..., Any], project: Path) -> None:
    """A causal recipe over scikit-learn trains without it."""
    (project / "causalml.py").write_text("raise SystemExit('causalml was imported')\n")
    answer = process("train", "--recipe-file", "recipes/causal/coupon_t_learner.yaml", "--set", "execution.report=false", "--json",
                     env={"PYTHONPATH": str(project)})  # fmt: skip
    assert answer.code == 0, answer


def test_a_classifier_as_the_model_itself_is_refused_before_any_data(command: Callable[..., Any], project: Path) -> None:
    """It could not learn an effect; the message says how it can, at the line of the model."""
    text = (project / "recipes/causal/coupon_t_learner.yaml").read_text()
    head, tail = text.split("  class_path: t_learner\n")[0], text[text.index("  loader:") :]
    (project / "recipes/causal/mine.yaml").write_text(f"{head}  class_path: sklearn.ensemble.RandomForestClassifier\n{tail}")
    answer = command("validate", "--recipe-file", "recipes/causal/mine.yaml", "--json")
    assert answer.code == 3, answer
    (error,) = answer.json["errors"]
    assert "RandomForestClassifier takes no treatment in fit" in error["message"]
    assert error["line"] == 4
    assert "t_learner" in answer.err + answer.out


@pytest.mark.parametrize(("declared", "warned"), [(0.5, False), (0.8, True)])
def test_a_declared_propensity_that_the_data_belie_is_said(declared, warned, caplog) -> None:
    """Half are treated; 0.8 cannot be."""
    task_of(propensity=declared).describe(trial(1000))
    assert ("the draw was another one" in caplog.text) == warned


def test_a_forest_in_arms(tmp_path: Path) -> None:
    """A random forest of classifiers inside gives probabilities' differences between -1 and 1."""
    frame = trial(300, binary=True).drop(columns="id")
    effect = fitted(task_of(), frame, TLearner(RandomForestClassifier(10, random_state=0)), tmp_path).predict(frame)["effect"]
    assert effect.between(-1, 1).all()
