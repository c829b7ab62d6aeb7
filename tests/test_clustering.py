"""Clustering: what the task takes apart and answers, what its figures mean, and which estimators are refused before any data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from pydantic import ValidationError
from sklearn import cluster, metrics, mixture
from sklearn.datasets import load_wine, make_blobs
from sklearn.linear_model import LogisticRegression

import recipeline
from recipeline import artifact, settings
from recipeline.components.cluster_evaluator import ClusteringEvaluator
from recipeline.components.clustering import AGAINST, WITHIN, Clustering, Halves, Shuffled
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.contracts import FitContext, Part
from recipeline.errors import DataError, RecipeError, TrainingFailed
from recipeline.pipeline import Pipeline

INDUCTIVE: dict[str, Callable[[], Any]] = {
    "KMeans": lambda: cluster.KMeans(3, random_state=0),
    "MiniBatchKMeans": lambda: cluster.MiniBatchKMeans(3, random_state=0),
    "BisectingKMeans": lambda: cluster.BisectingKMeans(3, random_state=0),
    "MeanShift": cluster.MeanShift,
    "AffinityPropagation": lambda: cluster.AffinityPropagation(random_state=0),
    "Birch": lambda: cluster.Birch(n_clusters=3),
    "GaussianMixture": lambda: mixture.GaussianMixture(3, random_state=0),
    "BayesianGaussianMixture": lambda: mixture.BayesianGaussianMixture(n_components=3, random_state=0),
}


def task_of(**keys: Any) -> Clustering:
    return Clustering(Clustering.Interface.model_validate({"task_type": "clustering", **keys}))


def blobs(n: int = 150) -> pd.DataFrame:
    points, labels = make_blobs(n, 4, centers=3, cluster_std=0.7, random_state=3)
    frame = pd.DataFrame(points, columns=["a", "b", "c", "d"])
    frame.insert(0, "id", np.arange(n))
    frame["kind"] = np.array(["x", "y", "z"])[labels]
    return frame


def setting(model: Any, folder: Path, names: tuple[str, ...] = ("silhouette",), frame: pd.DataFrame | None = None) -> tuple[Pipeline, Part]:
    """A pipeline fitted on the even rows, and the odd ones to judge it on, as the engine hands them over."""
    frame = blobs() if frame is None else frame
    task = task_of(entity_cols="id", label_col="kind")
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True)
    train, test = np.arange(0, len(frame), 2), np.arange(1, len(frame), 2)
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=DefaultPreprocessor(numerical_strategy="standard"))
    pipeline.fit(selected.take(train), FitContext(0, folder))
    sealed = selected.take(test)
    return pipeline, Part(frame.iloc[test], sealed, names, seed=5, features=lambda: pipeline.features(sealed))


# --- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDUCTIVE)
def test_every_estimator_that_predicts_is_kept_and_answers(name: str, tmp_path: Path) -> None:
    """Its own labels, probabilities of a mixture or the distance to the own centre; the same bits once read back. Only Birch is pickled."""
    pipeline, part = setting(INDUCTIVE[name](), tmp_path)
    answer = pipeline.predict(part.rows)
    X = pipeline.preprocessor.transform(part.rows[["a", "b", "c", "d"]])
    assert answer["id"].tolist() == part.rows["id"].tolist()
    assert answer["cluster"].dtype == np.int64
    np.testing.assert_array_equal(answer["cluster"], pipeline.model.predict(X))
    if hasattr(pipeline.model, "predict_proba"):
        assert list(answer.columns) == ["id", "cluster", "probability_0", "probability_1", "probability_2"]
        np.testing.assert_array_equal(answer.filter(like="probability_"), pipeline.model.predict_proba(X))
    elif name == "Birch":  # it has centres of its many small clusters only
        assert list(answer.columns) == ["id", "cluster"]
    else:
        own = pipeline.model.cluster_centers_[answer["cluster"]]
        np.testing.assert_allclose(answer["distance"], np.linalg.norm(X - own, axis=1), rtol=1e-14)
    artifact.keep(pipeline.model, tmp_path / "kept", "model", "b")
    assert (tmp_path / "kept" / "part.skops").is_file() == (name != "Birch")
    pipeline.model = artifact.take_up(tmp_path / "kept", "model", "b", lambda path: type(pipeline.model), pickles=name == "Birch")
    pd.testing.assert_frame_equal(pipeline.predict(part.rows), answer, check_exact=True)
    assert list(pipeline.predict(part.rows.iloc[:0]).columns) == list(answer.columns)


def test_known_labels_are_never_a_feature(tmp_path: Path) -> None:
    """With or without them the same clusters; they are not asked for at prediction."""
    frame = blobs()
    without = task_of(entity_cols="id")
    plain = frame.drop(columns="kind")
    schema = task_of(entity_cols="id", label_col="kind").describe(frame)
    assert schema.features == without.describe(plain).features == ("a", "b", "c", "d")
    assert schema.target == {"names": ["kind"], "dtype": "string", "classes": ["x", "y", "z"], "use": "judging"}
    selected = without.select(plain, without.describe(plain), targets=True)
    assert selected.y is None
    assert selected.extras == {}
    pipeline, part = setting(cluster.KMeans(3, random_state=0), tmp_path)
    assert part.selected.y is None
    assert pipeline.predict(part.rows.drop(columns="kind")).equals(pipeline.predict(part.rows))


def test_interfaces_that_contradict_themselves() -> None:
    """One role for each column; there is no target to name."""
    for keys in ({"target_col": "kind"}, {"label_col": "a", "entity_cols": ["a"]}, {"label_col": "a", "group_col": "a"},
                 {"label_col": "a", "sample_weight_col": "a"}):  # fmt: skip
        with pytest.raises(ValidationError):
            task_of(**keys)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None] * 6, "nulls only"),
        (["x"] * 6, "holds 'x' only"),
        ([0.5, 1.5] * 3, "not labels"),
        (pd.date_range("2026", periods=6), "stamps"),
    ],
)
def test_a_column_that_holds_no_labels(values: Any, words: str) -> None:
    """Said before anything is fitted."""
    frame = pd.DataFrame({"a": np.arange(6.0), "kind": values})
    with pytest.raises(DataError, match=words):
        task_of(label_col="kind").describe(frame)
    with pytest.raises(DataError, match=r"label_col: the data have no column 'kinds'.*kind"):
        task_of(label_col="kinds").describe(frame)


def test_an_estimator_with_another_question_is_refused(tmp_path: Path) -> None:
    """A classifier has no target here; what predicts no whole number has found no clusters."""
    with pytest.raises(RecipeError, match="LogisticRegression is a classifier"):
        setting(LogisticRegression(), tmp_path)

    class Vague(cluster.KMeans):
        def predict(self, X: Any) -> Any:
            return super().predict(X) + 0.5

    pipeline, part = setting(Vague(2), tmp_path)
    with pytest.raises(TrainingFailed, match="float64, where numbers of clusters"):
        pipeline.predict(part.rows)


def test_weights_reach_the_estimator_or_are_refused(tmp_path: Path) -> None:
    """KMeans takes them, a mixture does not."""
    frame = blobs().assign(weight=np.linspace(0.1, 5, 150)).drop(columns="kind")
    task = task_of(entity_cols="id", sample_weight_col="weight")
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True)
    fitted = task.fit(cluster.KMeans(2, random_state=0), selected, FitContext(0, tmp_path))
    by_hand = cluster.KMeans(2, random_state=0).fit(selected.X, sample_weight=frame["weight"])
    np.testing.assert_array_equal(fitted.cluster_centers_, by_hand.cluster_centers_)
    with pytest.raises(RecipeError, match="GaussianMixture takes no sample weights"):
        task.fit(mixture.GaussianMixture(2), selected, FitContext(0, tmp_path))


def test_what_is_to_be_beaten() -> None:
    """Two clusters of one size each: by chance, and through the middle of the cloud, whatever the nulls and the scale."""
    frame = pd.DataFrame({"a": [1.0, 2, 3, 101, 102, np.nan], "b": [5.0] * 6, "t": list("xyzxyz")})
    halves = Halves(("a", "b")).fit(frame)
    assert sorted(halves.predict(frame).tolist()) == [0, 0, 0, 1, 1, 1]
    assert len(set(halves.predict(frame)[:3])) == 1
    assert sorted(Shuffled().fit(frame).predict(frame).tolist()) == [0, 0, 0, 1, 1, 1]
    text = task_of().describe(frame[["t"]])
    assert set(task_of().baselines(text)) == {"dummy"}
    assert set(task_of().baselines(task_of().describe(frame))) == {"dummy", "halves"}


# --- figures of merit ------------------------------------------------------------------------------------------------


def test_figures_are_scikit_learns(tmp_path: Path) -> None:
    """Within: in the preprocessed features of the sealed rows. Against: only where the label is known."""
    frame = blobs()
    frame.loc[[1, 7], "kind"] = None
    names = tuple(metric.name for metric in (*WITHIN, *AGAINST))
    pipeline, part = setting(cluster.KMeans(4, random_state=0), tmp_path, names, frame)
    judged = ClusteringEvaluator(interface={"label_col": "kind"}).judge(pipeline, part)
    X = pipeline.preprocessor.transform(part.rows[["a", "b", "c", "d"]])
    labels = pipeline.model.predict(X)
    known = part.rows["kind"].notna().to_numpy()
    for metric in WITHIN:
        assert judged.metrics[metric.name] == getattr(metrics, metric.aliases[0])(X, labels)
    for metric in AGAINST:
        expected = getattr(metrics, f"{metric.name}_score")(part.rows["kind"][known], labels[known])
        assert judged.metrics[metric.name] == pytest.approx(expected, rel=1e-12)
    assert 0 < judged.metrics["adjusted_rand"] < 1


def test_labels_are_needed_for_figures_of_labels() -> None:
    """So they are not announced without them."""
    assert ClusteringEvaluator(interface={}).measures == WITHIN
    assert ClusteringEvaluator(interface={"label_col": "kind"}).measures == (*WITHIN, *AGAINST)


def test_one_cluster_has_no_figure(tmp_path: Path) -> None:
    """An error and not a number; neither has a part where every row is its own cluster."""
    pipeline, part = setting(cluster.MeanShift(bandwidth=100.0), tmp_path, ("silhouette",))
    for name in ("silhouette", "davies_bouldin", "calinski_harabasz"):
        with pytest.raises(DataError, match=f"{name} is undefined: one cluster only") as caught:
            ClusteringEvaluator().judge(pipeline, Part(part.rows, part.selected, (name,), features=part.features))
        assert caught.value.code == 5
    pipeline, part = setting(cluster.KMeans(3, random_state=0), tmp_path)
    rows = [int(np.flatnonzero(pipeline.predict(part.rows)["cluster"] == number)[0]) for number in range(3)]
    sealed = part.selected.take(np.array(rows))
    alone = Part(part.rows.iloc[rows], sealed, ("silhouette",), features=lambda: pipeline.features(sealed))
    with pytest.raises(DataError, match="each of the 3 rows"):
        ClusteringEvaluator().judge(pipeline, alone)


def test_a_large_part_is_sampled_from_the_seed(tmp_path: Path) -> None:
    """The silhouette of 40 rows of 75: near that of all, the same twice, another for another seed. The rest sees all rows."""
    pipeline, part = setting(cluster.KMeans(3, random_state=0), tmp_path, ("silhouette", "davies_bouldin"))
    whole = ClusteringEvaluator().judge(pipeline, part).metrics
    judge = ClusteringEvaluator(silhouette_rows=40)
    drawn = judge.judge(pipeline, part)
    assert drawn.metrics == judge.judge(pipeline, part).metrics
    assert drawn.metrics["davies_bouldin"] == whole["davies_bouldin"]
    assert drawn.metrics["silhouette"] != whole["silhouette"]
    assert drawn.metrics["silhouette"] == pytest.approx(whole["silhouette"], abs=0.05)
    assert drawn.metrics != judge.judge(pipeline, Part(part.rows, part.selected, part.metrics, seed=6, features=part.features)).metrics
    assert drawn.tables["clusters"]["rows"].sum() == 75
    assert [problem.key for problem in ClusteringEvaluator.check({"silhouette_rows": 3}, {}, "local")] == [("silhouette_rows",)]


def test_features_that_nobody_kept(tmp_path: Path) -> None:
    """A batch scores by labels; a silhouette it cannot know is refused, and text has no distances."""
    pipeline, part = setting(cluster.KMeans(3, random_state=0), tmp_path)
    evaluator = ClusteringEvaluator(interface={"label_col": "kind"})
    assert evaluator.judge(pipeline, Part(part.rows, part.selected, ("ari",), detail=False)).metrics["adjusted_rand"] == 1.0
    with pytest.raises(RecipeError, match="silhouette needs the features"):
        evaluator.judge(pipeline, Part(part.rows, part.selected, ("silhouette",), detail=False))
    with pytest.raises(RecipeError, match="are not numbers"):
        evaluator.judge(pipeline, Part(part.rows, part.selected, ("silhouette",), features=lambda: part.rows[["kind"]]))


# --- tables and pictures ---------------------------------------------------------------------------------------------


def test_tables_and_pictures(tmp_path: Path) -> None:
    """Sizes add up, profiles are means, and every picture draws what the tables hold."""
    frame = blobs().assign(town=lambda rows: np.where(rows["kind"] == "x", "Oslo", "Lyon"), flat=1.0)
    pipeline, part = setting(cluster.KMeans(3, random_state=0), tmp_path, frame=frame)
    judged = ClusteringEvaluator().judge(pipeline, part)
    clusters, profiles = judged.tables["clusters"], judged.tables["profiles"].set_index("feature")
    labels = judged.tables["predictions"]["cluster"].to_numpy()
    assert clusters["rows"].tolist() == np.bincount(labels).tolist()
    assert clusters["silhouette"].mul(clusters["share"]).sum() == pytest.approx(judged.metrics["silhouette"], rel=1e-12)
    assert "flat" not in profiles.index
    assert profiles.loc["a", "cluster_1"] == pytest.approx(part.rows["a"][labels == 1].mean(), rel=1e-12)
    (oslo,) = judged.tables["labels"].query("label == 'x'").iloc[:, 1:].to_numpy().argmax(axis=1)
    assert profiles.loc["town=Oslo", f"cluster_{oslo}"] == 1.0
    assert list(judged.figures) == ["sizes", "silhouettes", "map", "profiles", "labels"]
    for name, figure in judged.figures.items():
        axes = Canvas().add_subplot()
        figure.draw(axes)
        axes.figure.canvas.draw()
        assert figure.caption
        if name == "sizes":
            assert [patch.get_height() for patch in axes.patches] == clusters["rows"].tolist()
        if name == "map":
            assert sum(len(points.get_offsets()) for points in axes.collections) == 75


def test_pictures_of_the_smallest_clustering(tmp_path: Path) -> None:
    """One feature and one cluster: nothing to map, no silhouettes; and no error."""
    frame = blobs()[["id", "a", "kind"]]
    pipeline, part = setting(cluster.KMeans(1, random_state=0), tmp_path, ("homogeneity",), frame)
    judged = ClusteringEvaluator(interface={"label_col": "kind"}).judge(pipeline, part)
    assert list(judged.figures) == ["sizes", "profiles", "labels"]
    assert "silhouette" not in judged.tables["clusters"]


# --- through the engine ----------------------------------------------------------------------------------------------

RECIPE = """name: blobs
model:
  {model}
  loader: {{name: default_loader, source_uri: blobs.csv}}
  preprocessor: {{name: default_preprocessor, params: {{numerical_strategy: standard}}}}
  data_interface: {{task_type: clustering, entity_cols: [id]{more}}}
"""


@pytest.mark.parametrize("path", ["sklearn.cluster.DBSCAN", "sklearn.cluster.AgglomerativeClustering", "sklearn.cluster.HDBSCAN",
                                  "sklearn.cluster.SpectralClustering", "sklearn.cluster.OPTICS"])  # fmt: skip
def test_an_estimator_that_cannot_predict_is_refused_before_any_data(command: Callable[..., Any], project: Path, path: str) -> None:
    """Exit 3, why, and what to take instead; the file that it names does not even exist."""
    (project / "blobs.yaml").write_text(RECIPE.format(model=f"class_path: {path}", more=""))
    answer = command("train", "--recipe-file", "blobs.yaml")
    assert answer.code == 3
    assert f"blobs.yaml:3:15: model.class_path: {path} cannot be a model: it has no predict" in answer.err
    assert "rows that it was not fitted on; use KMeans" in answer.err


def test_a_metric_of_labels_without_labels_is_refused_before_any_data(command: Callable[..., Any], project: Path) -> None:
    """And a metric of another task."""
    text = RECIPE.format(model="class_path: sklearn.cluster.KMeans", more="")
    (project / "blobs.yaml").write_text(text + "evaluation: {metrics: [adjusted_rand, accuracy]}\n")
    answer = command("validate", "--recipe-file", "blobs.yaml", "--json")
    assert answer.code == 3
    assert [error["slug"] for error in answer.json["errors"]] == ["wrong-metric", "wrong-metric"]
    (project / "blobs.yaml").write_text(text.replace("[id]", "[id], label_col: kind") + "evaluation: {metrics: [ari, silhouette_score]}\n")
    assert command("validate", "--recipe-file", "blobs.yaml").code == 0


def test_a_search_finds_the_number_of_clusters(command: Callable[..., Any], project: Path) -> None:
    """By the silhouette on inner folds, each in the features of its own fit; a trial that finds one cluster fails alone."""
    blobs().to_csv(project / "blobs.csv", index=False)
    model = (
        "{class_path: sklearn.cluster.MeanShift, hyperparameters: {bandwidth: {type: categorical, choices: [100.0, 1.0], default: 1.0}}}"
    )
    text = RECIPE.format(model=model[1:-1].replace(", hyper", "\n  hyper"), more=", label_col: kind")
    text += "hyperparameter_tuning: {enabled: true, n_trials: 4, metric: silhouette, folds: 3}\nevaluation: {metrics: [silhouette, ari]}\n"
    (project / "blobs.yaml").write_text(text)
    answer = command("train", "--recipe-file", "blobs.yaml", "--json")
    assert answer.code == 0, answer
    assert answer.json["metrics"]["adjusted_rand"] == 1.0
    assert answer.json["metrics"]["silhouette"] > answer.json["baselines"]["halves"]["silhouette"]
    assert answer.json["baselines"]["halves"]["silhouette"] > answer.json["baselines"]["dummy"]["silhouette"]
    hpo = json.loads((Path(answer.json["artifact"]) / "hpo.json").read_text())
    failed = [trial for trial in hpo["optimization_history"] if trial["state"] == "failed"]
    assert failed
    assert all("one cluster only" in trial["reason"] for trial in failed)

    scored = command("batch-inference", "--run-id", "latest", "--evaluate", "--json")
    assert scored.code == 3, scored  # the recipe asks for the silhouette, too
    assert "silhouette needs the features" in scored.err


def test_one_cluster_fails_the_run(command: Callable[..., Any], project: Path) -> None:
    """Exit 5 with the metric's name; no artifact."""
    blobs().drop(columns="kind").to_csv(project / "blobs.csv", index=False)
    model = "class_path: sklearn.cluster.MeanShift\n  hyperparameters: {bandwidth: 100.0}"
    (project / "blobs.yaml").write_text(RECIPE.format(model=model, more=""))
    answer = command("train", "--recipe-file", "blobs.yaml", "--json")
    assert answer.code == 5
    assert answer.json["error"]["slug"] == "undefined-metric"
    assert not list(project.glob("mlruns/**/model"))


def test_folds_and_numbers_of_clusters(project: Path) -> None:
    """Cross-validation judges five clusterings and keeps the one of all rows; the labels it gives are those of the estimator."""
    frame = blobs().drop(columns="kind")
    frame.to_csv(project / "blobs.csv", index=False)
    model = "class_path: sklearn.cluster.KMeans\n  hyperparameters: {n_clusters: 3}"
    text = RECIPE.format(model=model, more="") + "evaluation: {validation: {method: cross_validation}}\n"
    run = recipeline.train(text, settings=settings.load(project=project, environ={}))
    assert {"silhouette", "silhouette_sd"} == set(run.metrics)
    answer = recipeline.load(run.artifact, settings=settings.load(project=project, environ={})).predict(frame)
    X = frame[["a", "b", "c", "d"]].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_hand = cluster.KMeans(3, random_state=42).fit((X - X.mean(axis=0)) / X.std(axis=0))
    np.testing.assert_array_equal(answer["cluster"], by_hand.labels_)


def test_wine_has_its_growers(tmp_path: Path) -> None:
    """Three clusters of the scaled measurements are nearly the three growers, as the literature has it."""
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "kind"}).assign(id=range(178))
    pipeline, part = setting(cluster.KMeans(3, n_init=10, random_state=0), tmp_path, ("ari",), frame)
    assert ClusteringEvaluator(interface={"label_col": "kind"}).judge(pipeline, part).metrics["adjusted_rand"] > 0.8
