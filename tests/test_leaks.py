"""No score is better than it is honest: what is leaked would show as a score above chance. With positive controls.

Run with `-s` to see the figures; `docs/explanation/leakage.md` has them, and `python -m bench.leakage` prints them again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import leaks
import recipeline
from leaks import Figure
from recipeline import registry, settings
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.contracts import Fold, Split
from recipeline.errors import DataError, RecipeError

SEEDS = range(50)


def train(project: Path, document: Mapping[str, Any]) -> recipeline.Run:
    return recipeline.train(document, settings=settings.load(project=project, overrides=["execution.report=false"]))


def paired(with_it: Figure, without: Figure) -> Figure:
    """The difference of two figures on the same seeds, whose chance is none."""
    return Figure(tuple(a - b for a, b in zip(with_it.scores, without.scores, strict=True)), chance=0.0)


def auc(frame: pd.DataFrame, train_rows: Any, test_rows: Any, columns: list[str]) -> float:
    """A logistic regression by hand, on columns that somebody prepared."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    X, y = frame[columns].to_numpy(float), frame["y"].to_numpy()
    model = LogisticRegression(max_iter=1000).fit(X[train_rows], y[train_rows])
    return float(roc_auc_score(y[test_rows], model.predict_proba(X[test_rows])[:, 1]))


def cut(n: int, seed: int) -> tuple[Any, Any]:
    from sklearn.model_selection import train_test_split

    train_rows, test_rows = train_test_split(np.arange(n), test_size=0.2, random_state=seed)
    return train_rows, test_rows


# --- targets that were shuffled --------------------------------------------------------------------------------------------


FAST = ("target encoding", "SelectKBest in steps", "decision_threshold: tune")  # the others take minutes together
ALL = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in leaks.CASES]


@pytest.mark.parametrize("name", ALL)
def test_a_shuffled_target_scores_chance(tmp_path: Path, name: str) -> None:
    """The mean over 50 seeds lies within two standard errors of 0.5, whatever the pipeline does with the target."""
    case = leaks.CASES[name]
    figure = leaks.permuted(case.document, case.frame, tmp_path, SEEDS, metric=case.metric)
    print(f"shuffled target, {name}: {figure}")
    assert len(figure.scores) >= 50
    assert figure.error < 0.03  # else two standard errors would hold anything
    assert abs(figure.z) <= 2


def test_the_measure_notices_an_encoder_that_saw_the_sealed_rows(tmp_path: Path) -> None:
    """The control of the test above: the mean target per text over all rows, the sealed ones too, before the split."""
    scores = []
    for seed in SEEDS:
        random = np.random.default_rng([seed, 7])
        frame = leaks.mixed(random)[["a", "b", "city", "y"]]
        frame["y"] = random.permutation(frame["y"].to_numpy())
        frame["city"] = frame.groupby("city")["y"].transform("mean")
        scores.append(leaks.judge(leaks.recipe(), frame, tmp_path, seed)["roc_auc"])
    figure = Figure(tuple(scores))
    print(f"shuffled target, encoded before the split: {figure}")
    assert figure.z > 10


# --- a column of noise -----------------------------------------------------------------------------------------------------


ENCODED = leaks.recipe(model=leaks.preprocessed(categorical_strategy="target"))
LEFT_OUT = leaks.recipe(model=leaks.preprocessed(exclude_cols=["code"]))
FEW = range(12)


def noise_figures(folder: Path, signal: float) -> tuple[Figure, Figure]:
    """AUC with a text of 1,200 values that means nothing, encoded by the target, and without it."""
    frames = [leaks.coded(np.random.default_rng([seed, 3]), signal=signal) for seed in FEW]
    with_it, without = (
        Figure(tuple(leaks.judge(document, frame, folder, seed)["roc_auc"] for seed, frame in zip(FEW, frames, strict=True)))
        for document in (ENCODED, LEFT_OUT)
    )
    return with_it, without


def test_a_column_of_1200_random_texts_is_worth_nothing(tmp_path: Path) -> None:
    """Encoded by the target of which there is nothing to learn, it scores chance."""
    with_it, _ = noise_figures(tmp_path, signal=0.0)
    print(f"1,200 levels, target of noise: {with_it}")
    assert abs(with_it.z) <= 2


def test_a_column_of_1200_random_texts_takes_little_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a column that matters it costs nearly nothing. The control fits and applies the encoder on the same rows:
    the model then believes the noise, and loses a large part of what there is above chance.
    """
    with_it, without = noise_figures(tmp_path, signal=1.0)
    honest = paired(with_it, without)
    print(f"1,200 levels, target with a signal: {with_it}; without the column: {without}; difference {honest}")
    cross_fitted = DefaultPreprocessor.fit_transform

    def naive(self: Any, X: Any, y: Any = None) -> Any:
        cross_fitted(self, X, y)
        return self.transform(X)

    monkeypatch.setattr(DefaultPreprocessor, "fit_transform", naive)
    fooled, _ = noise_figures(tmp_path, signal=1.0)
    lost = paired(fooled, without)
    print(f"1,200 levels, encoder fitted and applied on the same rows: {fooled}; difference {lost}")
    assert without.mean > 0.7
    assert abs(honest.mean) < 0.01
    assert abs(honest.z) <= 2
    assert lost.mean < -0.05
    assert lost.z < -5


# --- selection -------------------------------------------------------------------------------------------------------------


def test_features_selected_inside_score_chance_and_outside_far_more(tmp_path: Path) -> None:
    """The best 10 of 400 columns of noise. Ambroise and McLachlan (2002), Selection bias in gene extraction, PNAS 99, 6562."""
    from sklearn.feature_selection import SelectKBest

    inside, outside = [], []
    for seed in SEEDS:
        frame = leaks.wide(np.random.default_rng([seed, 5]))
        inside.append(leaks.judge(leaks.recipe(model=leaks.selection(leaks.WIDE, 10)), frame, tmp_path, seed)["roc_auc"])
        chosen = SelectKBest(k=10).fit(frame[leaks.WIDE], frame["y"]).get_feature_names_out().tolist()
        outside.append(leaks.judge(leaks.recipe(), frame[[*chosen, "y"]], tmp_path, seed)["roc_auc"])
    honest, biased = Figure(tuple(inside)), Figure(tuple(outside))
    print(f"10 of 400 columns of noise, selected inside: {honest}")
    print(f"10 of 400 columns of noise, selected before the split: {biased}")
    assert abs(honest.z) <= 2
    assert biased.mean > 0.75
    assert biased.z > 10


# --- splits that leak ------------------------------------------------------------------------------------------------------


def grouped(seed: int = 0, groups: int = 40, each: int = 6) -> pd.DataFrame:
    """Rows of a group are nearly the same, their target is that of the group and means nothing."""
    random = np.random.default_rng(seed)
    centres, labels = random.normal(size=(groups, 5)), random.integers(0, 2, groups)
    frame = pd.DataFrame(np.repeat(centres, each, axis=0) + random.normal(0, 0.05, (groups * each, 5)), columns=list("abcde"))
    return frame.assign(who=np.repeat(np.arange(groups), each), y=np.repeat(labels, each))


NEAREST = {"class_path": "sklearn.neighbors.KNeighborsClassifier", "hyperparameters": {"n_neighbors": 1}}


def by_group(method: str, *, declared: bool) -> dict[str, Any]:
    """A nearest neighbour, which remembers every row, on the rows of `grouped`."""
    interface: dict[str, Any] = {"task_type": "classification", "target_col": "y"}
    interface |= {"group_col": "who"} if declared else {"entity_cols": ["who"]}
    validation = {"method": method} if method == "train_test_split" else {"method": method, "group_on": "who"}
    return leaks.recipe(model={**NEAREST, "data_interface": interface}, evaluation={"validation": validation})


def test_a_planted_leak_of_groups_is_refused_where_groups_are_declared(tmp_path: Path) -> None:
    """A random cut through them scores nearly 1 on a target that means nothing; between them it scores chance."""
    with pytest.raises(RecipeError, match=r"cut through the groups of data_interface\.group_col") as refused:
        leaks.judge(by_group("train_test_split", declared=True), grouped(), tmp_path)
    assert refused.value.code == 3
    leaked = Figure(tuple(leaks.judge(by_group("train_test_split", declared=False), grouped(seed), tmp_path)["roc_auc"] for seed in FEW))
    honest = Figure(tuple(leaks.judge(by_group("group_split", declared=True), grouped(seed), tmp_path)["roc_auc"] for seed in SEEDS))
    print(f"groups cut through: {leaked}; between groups: {honest}")
    assert leaked.mean > 0.95
    assert abs(honest.z) <= 2


def test_rows_on_both_sides_of_the_border_are_counted(project: Path) -> None:
    """Each row twice: most of the sealed rows were seen in training, and `split.json` says how many."""
    frame = pd.concat([leaks.mixed(np.random.default_rng(1), 100)] * 2, ignore_index=True)
    frame.to_parquet(project / "given.parquet")
    run = train(project, leaks.recipe())
    audit = json.loads((run.artifact / "split.json").read_text())
    sealed = audit["borders"][0]["test"]
    assert 0.6 * sealed < audit["duplicates"] <= sealed
    frame.drop_duplicates().to_parquet(project / "given.parquet")
    assert json.loads((train(project, leaks.recipe()).artifact / "split.json").read_text())["duplicates"] == 0


def drifting(n: int = 400) -> pd.DataFrame:
    """The target walks: its neighbours in time tell it, the past does not."""
    random = np.random.default_rng(2)
    level = np.cumsum(random.normal(size=n))
    return pd.DataFrame(
        {"t": np.arange(n, dtype=float), "when": pd.date_range("2024-01-01", periods=n, freq="h"), "y": level + random.normal(0, 0.1, n)}
    )


def timed(method: str) -> dict[str, Any]:
    interface = {"task_type": "regression", "target_col": "y", "timestamp_col": "when"}
    model = {"class_path": "sklearn.neighbors.KNeighborsRegressor", "hyperparameters": {"n_neighbors": 2}, "data_interface": interface}
    document = leaks.recipe(model=model)
    document["evaluation"] = {"metrics": ["r2"], "validation": {"method": method}}
    return document


@pytest.mark.parametrize("method", ["train_test_split", "cross_validation"])
def test_a_planted_leak_of_time_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str) -> None:
    """A random cut looks into the future and scores nearly 1; the log says so. A cut by time does not, and is not warned of."""
    with caplog.at_level(logging.WARNING, "recipeline"):
        leaked = leaks.judge(timed(method), drifting(), tmp_path)["r2"]
    (warning,) = [record.getMessage() for record in caplog.records if "not later" in record.getMessage()]
    assert "use time_split or time_series_split" in warning
    caplog.clear()
    honest = leaks.judge(timed("time_split"), drifting(), tmp_path)["r2"]
    print(f"time, {method}: r2 {leaked:.3f}; time_split: r2 {honest:.3f}")
    assert leaked > 0.95
    assert honest < 0.5
    assert not [record for record in caplog.records if "not later" in record.getMessage()]


def test_the_audit_has_the_rows_that_are_not_later(project: Path) -> None:
    drifting().to_parquet(project / "given.parquet")
    for method, expected in (("train_test_split", True), ("time_split", False)):
        run = train(project, timed(method))
        audit = json.loads((run.artifact / "split.json").read_text())
        assert (audit["not_later"] > 0) is expected, audit


# --- splitters of others ---------------------------------------------------------------------------------------------------


class Overlapping:
    """A splitter that leaves some rows on both sides, of the sealed part or of the inner folds."""

    def __init__(self, outer: int = 0, inner: int = 0, random_state: int | None = None) -> None:
        self.outer_rows, self.inner_rows = outer, inner

    def split(self, selected: Any, task: Any) -> Split:
        n = len(selected.X)
        return Split((Fold(np.arange(n * 3 // 4 + self.outer_rows), np.arange(n * 3 // 4, n)),))

    def inner(self, selected: Any, task: Any, folds: int) -> tuple[Fold, ...]:
        n = len(selected.X)
        return (Fold(np.arange(n // 2 + self.inner_rows), np.arange(n // 2, n)), Fold(np.arange(n // 2, n), np.arange(n // 2)))


@pytest.fixture
def overlapping() -> Iterator[str]:
    recipeline.register("splitter", "overlapping", Overlapping)
    yield "overlapping"
    registry.unregister("splitter", "overlapping")


@pytest.mark.parametrize("side", ["outer", "inner"])
def test_rows_that_a_foreign_splitter_leaves_on_both_sides_are_a_leak(tmp_path: Path, overlapping: str, side: str) -> None:
    """Refused before anything is fitted: exit 5, slug leak, with their number and the splitter's name."""
    model = {"hyperparameters": {"C": {"type": "float", "low": 0.1, "high": 1.0}}}
    document = leaks.recipe(model=model, hyperparameter_tuning={"enabled": True, "n_trials": 2})
    frame = leaks.mixed(np.random.default_rng(0))
    document["evaluation"] = {"metrics": ["roc_auc"], "validation": {"method": overlapping, side: 3}}
    with pytest.raises(DataError, match="3 rows of fold 0 are judged by a pipeline that was fitted on them") as caught:
        leaks.judge(document, frame, tmp_path)
    assert (caught.value.slug, caught.value.code, caught.value.where) == ("leak", 5, "Overlapping")
    shutil.rmtree(tmp_path)
    document["evaluation"]["validation"] = {"method": overlapping}
    assert 0 < leaks.judge(document, frame, tmp_path)["roc_auc"] < 1  # the control: without the rows it trains


# --- what is judged is what was saved --------------------------------------------------------------------------------------


class Forgetful:
    """A classifier that knows everything until it is saved: what is read back knows nothing."""

    def fit(self, X: Any, y: Any) -> Forgetful:
        from sklearn.linear_model import LogisticRegression

        self.model_: Any = LogisticRegression().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X: Any) -> Any:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.5) if self.model_ is None else self.model_.predict_proba(X)

    def save(self, folder: Path) -> None:
        (folder / "classes.json").write_text(json.dumps([int(label) for label in self.classes_]))

    @classmethod
    def load(cls, folder: Path) -> Forgetful:
        made = cls()
        made.model_, made.classes_ = None, np.array(json.loads((folder / "classes.json").read_text()))
        return made


def test_the_pipeline_that_is_judged_was_read_back_from_its_artifact(project: Path) -> None:
    """A model that loses what it learned when it is saved is judged as one that knows nothing; the same one by hand is good."""
    frame = leaks.coded(np.random.default_rng(0), n=400, signal=2.0).drop(columns="code")
    frame.to_parquet(project / "given.parquet")
    recipeline.register("model", "forgetful", Forgetful)
    try:
        metrics = train(project, leaks.recipe(model={"class_path": "forgetful"})).metrics
    finally:
        registry.unregister("model", "forgetful")
    assert metrics["roc_auc"] == 0.5
    assert auc(frame, *cut(len(frame), 42), ["a"]) > 0.8
