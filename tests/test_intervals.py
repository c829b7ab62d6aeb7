"""Bootstrap intervals and segments: what they cover, what they refuse to say, and how a report shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from scipy import stats
from sklearn import metrics as theirs
from sklearn.linear_model import LinearRegression, LogisticRegression

from recipeline import settings, train
from recipeline.components.classification import Classification
from recipeline.components.evaluators import BaseEvaluator, TabularEvaluator
from recipeline.components.intervals import bootstrap
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.components.regression import Regression
from recipeline.components.segments import segments
from recipeline.contracts import FitContext, Metric, Part
from recipeline.errors import DataError
from recipeline.pipeline import Pipeline


def customers(n: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(4)
    frame = pd.DataFrame({"id": np.arange(n), "age": random.integers(18, 90, n), "income": random.normal(size=n)})
    frame["country"] = random.choice(["dk", "kr", "nl"], n, p=[0.05, 0.5, 0.45])
    frame["shop"] = random.integers(0, 40, n)
    frame["when"] = pd.date_range("2026-01-01", periods=n, freq="h")
    frame.loc[frame.index[:9], "country"] = None
    frame["churned"] = np.where(frame["income"] + 0.7 * random.normal(size=n) > 0, "yes", "no")
    frame["spent"] = 3 * frame["income"] + random.normal(size=n)
    return frame


def setting(folder: Path, names: tuple[str, ...], *, regression: bool = False, **keys: Any) -> tuple[Pipeline, Part]:
    frame = customers()
    made = Regression if regression else Classification
    task = made(made.Interface.model_validate({"target_col": "spent" if regression else "churned", "entity_cols": "id", **keys}))
    frame = frame.drop(columns="churned" if regression else "spent")
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True)
    train, test = np.arange(0, len(frame), 2), np.arange(1, len(frame), 2)
    model = LinearRegression() if regression else LogisticRegression()
    preprocessor = DefaultPreprocessor(numerical_strategy="standard", exclude_cols=["when"])
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=preprocessor)
    pipeline.fit(selected.take(train), FitContext(1, folder))
    return pipeline, Part(frame.iloc[test], selected.take(test), names, seed=5)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_it_is_scipys_bca() -> None:
    """Another draw of resamples: the ends of a skewed mean agree to a hundredth of the width."""
    values = np.random.default_rng(3).exponential(size=60)
    (ours,) = bootstrap({"mean": lambda rows: float(values[rows].mean())}, 60, level=0.9, resamples=20_000, seed=1).values()
    other = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    width = other.high - other.low
    assert ours.low == pytest.approx(other.low, abs=0.03 * width)
    assert ours.high == pytest.approx(other.high, abs=0.03 * width)
    assert (other.high - values.mean()) > 1.1 * (values.mean() - other.low)  # it is not symmetric


def test_an_interval_covers_as_often_as_it_says() -> None:
    """The mean of 40 exponential numbers, 300 times over: 95 % intervals hold the truth in 90 to 98 %; 50 % ones in 43 to 57 %."""
    random = np.random.default_rng(0)
    for level, low, high in ((0.95, 0.90, 0.98), (0.5, 0.43, 0.57)):
        held = 0
        for number in range(300):
            values = random.exponential(size=40)
            (found,) = bootstrap(
                {"mean": lambda rows, v=values: float(v[rows].mean())}, 40, level=level, resamples=300, seed=number
            ).values()
            held += found.low <= 1.0 <= found.high
        assert low < held / 300 < high


def test_groups_are_drawn_whole() -> None:
    """Five equal rows per group are one observation: drawing rows covers far too seldom, drawing groups as often as it says."""
    random, held = np.random.default_rng(0), {"rows": 0, "groups": 0}
    groups = np.repeat(np.arange(30), 5).astype(object)
    for number in range(200):
        values = np.repeat(random.normal(size=30), 5)
        for kind in held:
            given = groups if kind == "groups" else None
            statistic = {"mean": lambda rows, v=values: float(v[rows].mean())}
            (found,) = bootstrap(statistic, 150, groups=given, level=0.95, resamples=300, seed=number).values()
            held[kind] += found.low <= 0.0 <= found.high
    assert held["rows"] / 200 < 0.75
    assert 0.88 < held["groups"] / 200 < 0.985


def test_what_cannot_be_said_is_not_said() -> None:
    """No error at all, a class that is often not drawn, one unit: a note in the place of a narrow interval."""
    right = np.ones(50)
    rare = np.arange(50) < 2

    def needs_both(rows: Any) -> float:
        if not rare[rows].any():
            raise DataError("one class only", slug="undefined-metric")
        return float(rare[rows].mean())

    statistics = {"accuracy": lambda rows: float(right[rows].mean()), "rare": needs_both}
    found = bootstrap(statistics, 50, level=0.95, resamples=500, seed=0)
    assert np.isnan([found["accuracy"].low, found["accuracy"].high, found["rare"].low]).all()
    assert "cannot tell" in found["accuracy"].note
    assert "undefined on" in found["rare"].note
    assert bootstrap(statistics, 1, level=0.95, resamples=10, seed=0)["rare"].note == "there is one unit only to draw from"
    same = bootstrap(statistics, 50, groups=np.zeros(50, object), level=0.95, resamples=10, seed=0)
    assert np.isnan(same["accuracy"].low)


def test_the_table_of_an_evaluation(tmp_path: Path) -> None:
    """Around the metrics that are reported, the same from the seed, narrower for a lower level; none while tuning."""
    pipeline, part = setting(tmp_path, ("accuracy", "roc_auc"))
    judge = TabularEvaluator(intervals=0.95, resamples=200)
    judged = judge.judge(pipeline, part)
    table = judged.tables["intervals"].set_index("metric")
    for name in ("accuracy", "roc_auc"):
        assert table.loc[name, "low"] < judged.metrics[name] == table.loc[name, "value"] < table.loc[name, "high"]
    assert table.loc["accuracy", ["level", "drawn", "units", "resamples", "note"]].tolist() == [0.95, "rows", 200, 200, ""]
    pd.testing.assert_frame_equal(judge.judge(pipeline, part).tables["intervals"], judged.tables["intervals"], check_exact=True)
    narrow = TabularEvaluator(intervals=0.5, resamples=200).judge(pipeline, part).tables["intervals"].set_index("metric")
    assert (narrow["low"] > table["low"]).all()
    assert (narrow["high"] < table["high"]).all()
    p = judged.metrics["accuracy"]  # 200 rows: the binomial says as much
    assert table.loc["accuracy", "high"] - table.loc["accuracy", "low"] == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 200), rel=0.2)
    assert "intervals" not in TabularEvaluator().judge(pipeline, part).tables
    assert judge.judge(pipeline, Part(part.rows, part.selected, part.metrics, detail=False)).tables == {}


def test_groups_and_targets_of_an_evaluation(tmp_path: Path) -> None:
    """`group_col` decides what is drawn; several targets have a line each."""
    pipeline, part = setting(tmp_path, ("r2",), regression=True, group_col="shop")
    table = TabularEvaluator(intervals=0.9, resamples=100).judge(pipeline, part).tables["intervals"]
    assert table[["drawn", "units"]].to_numpy().tolist() == [["groups", part.rows["shop"].nunique()]]
    pipeline, part = setting(tmp_path, ("r2", "mae"), regression=True, target_col=["spent", "income"])
    table = TabularEvaluator(intervals=0.9, resamples=100).judge(pipeline, part).tables["intervals"].set_index("metric")
    assert list(table.index) == ["r2", "mae", "r2_spent", "mae_spent", "r2_income", "mae_income"]
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).sum() >= 5


def test_a_figure_of_ones_own_has_no_interval_of_another(tmp_path: Path) -> None:
    """`evaluate` says 20 per miss, the function of the metric something else: then there is no interval."""

    class Costs(BaseEvaluator):
        measures = (*Classification.metrics, Metric("cost", "minimize", "prediction", lambda actual, said, *, weight=None: 0.0))

        def evaluate(self, y_true: Any, y_pred: Any, **kwargs: Any) -> dict[str, float]:
            return super().evaluate(y_true, y_pred, **kwargs) | {"cost": float((y_true != y_pred).sum() * 20)}

    pipeline, part = setting(tmp_path, ("accuracy", "cost"))
    table = Costs(intervals=0.95, resamples=100).judge(pipeline, part).tables["intervals"].set_index("metric")
    assert np.isfinite(table.loc["accuracy", "low"])
    assert np.isnan(table.loc["cost", "low"])
    assert table.loc["cost", "note"] == "evaluate computes it in a way of its own"


# --- segments --------------------------------------------------------------------------------------------------------


def test_segments_are_scikit_learns_on_their_rows(tmp_path: Path) -> None:
    """A feature, a key and a group column; nulls are a segment; together they are all rows."""
    pipeline, part = setting(tmp_path, ("accuracy", "roc_auc"), group_col="shop")
    judged = TabularEvaluator(segments=["country", "age", "shop", "when"]).judge(pipeline, part)
    table = judged.tables["segments"]
    assert table.groupby("column")["rows"].sum().to_dict() == {"country": 200, "age": 200, "shop": 200, "when": 200}
    told = table[table["column"] == "country"].set_index("segment")
    assert list(told.index) == ["dk", "kr", "nl", "missing"]
    said = pipeline.predict(part.rows)["prediction"].to_numpy()
    for segment in ("dk", "kr", "nl"):
        own = (part.rows["country"] == segment).to_numpy()
        assert told.loc[segment, "accuracy"] == theirs.accuracy_score(part.rows["churned"][own], said[own])
        assert told.loc[segment, "few"] == (own.sum() < 30)
    quartiles = table[table["column"] == "age"]
    assert len(quartiles) == 4
    assert quartiles["rows"].between(40, 60).all()
    assert len(table[table["column"] == "when"]) == 4
    assert len(table[table["column"] == "shop"]) == 4  # group numbers are numbers
    axes = Canvas().add_subplot()
    judged.figures["segments"].draw(axes)
    assert [label.get_text() for label in axes.get_yticklabels()][-1].startswith("country = dk")


def test_a_figure_that_a_segment_does_not_have(tmp_path: Path) -> None:
    """NaN and the reason; the other segments keep theirs."""
    pipeline, part = setting(tmp_path, ("roc_auc",))
    rows = part.rows.assign(answer=part.rows["churned"])
    table = TabularEvaluator(segments="answer").judge(pipeline, Part(rows, part.selected, part.metrics)).tables["segments"]
    assert table["roc_auc"].isna().all()
    assert table["note"].str.contains("one class only").all()


def test_values_that_are_many_or_odd() -> None:
    """Twenty names of their own and the others together; booleans, constants and few numbers as they are."""
    rows = pd.DataFrame(
        {
            "many": [f"v{at % 26:02d}" for at in range(200)],
            "flag": [True, False] * 100,
            "one": 1.0,
            "coded": pd.Categorical(["a", "b"] * 100, categories=["a", "b", "unused"]),
            "few": [3, 1] * 100,
            "mostly": [0.0] * 180 + list(range(20)),
        }
    )
    found = {name: [(label, len(at)) for column, label, at in segments(rows, [name])] for name in rows.columns}
    assert len(found["many"]) == 21
    assert found["many"][-1][0] == "6 others"
    assert found["flag"] == [("False", 100), ("True", 100)]
    assert found["one"] == [("1.0", 200)]
    assert found["coded"] == [("a", 100), ("b", 100)]
    assert found["few"] == [("1", 100), ("3", 100)]
    assert all(sum(size for _, size in one) == 200 for one in found.values())
    with pytest.raises(DataError, match=r"no column 'fla'.*flag"):
        segments(rows, ["fla"])


# --- through the engine ----------------------------------------------------------------------------------------------

RECIPE = """name: churn
model:
  class_path: sklearn.linear_model.LogisticRegression
  loader: {{name: default_loader, source_uri: customers.csv}}
  preprocessor: {{name: default_preprocessor, params: {{exclude_cols: [when], numerical_strategy: standard}}}}
  data_interface: {{task_type: classification, target_col: churned, entity_cols: [id]}}
evaluation:
  metrics: [accuracy, roc_auc]
  evaluator: {{name: tabular_evaluator, params: {params}}}
"""


def test_a_report_shows_them(project: Path) -> None:
    """Tables in the artifact, the interval beside the metric, the picture of the segments."""
    customers().drop(columns="spent").to_csv(project / "customers.csv", index=False)
    text = RECIPE.format(params="{intervals: 0.9, resamples: 200, segments: [country, age]}")
    run = train(text, settings=settings.load(project=project, environ={}))
    table = pd.read_parquet(run.artifact / "tables" / "intervals.parquet").set_index("metric")
    assert table.loc["accuracy", "low"] < run.metrics["accuracy"] < table.loc["accuracy", "high"]
    assert set(pd.read_parquet(run.artifact / "tables" / "segments.parquet")["column"]) == {"country", "age"}
    page = (run.artifact / "report.html").read_text()
    assert f"90 %: {table.loc['accuracy', 'low']:#.4g} to {table.loc['accuracy', 'high']:#.4g}" in page
    assert "Segments" in page
    assert "country = kr" in page


@pytest.mark.parametrize(
    ("params", "slug", "key"),
    [
        ("{intervals: 95}", "bad-value", "intervals"),
        ("{intervals: true}", "bad-value", "intervals"),
        ("{resamples: 500}", "ignored-key", "resamples"),
        ("{intervals: 0.95, resamples: 5}", "bad-value", "resamples"),
        ("{segments: [1]}", "bad-value", "segments"),
        ("{segment: [age]}", "unknown-key", "segment"),
    ],
)
def test_mistakes_are_said_before_any_data(command: Callable[..., Any], project: Path, params: str, slug: str, key: str) -> None:
    """With the place in the recipe."""
    (project / "churn.yaml").write_text(RECIPE.format(params=params))
    answer = command("validate", "--recipe-file", "churn.yaml", "--json")
    assert answer.code == 3
    (error,) = answer.json["errors"]
    assert error["slug"] == slug
    assert error["key"] == f"evaluation.evaluator.params.{key}"
    assert error["line"] == 9
