"""Pictures of clusters. Nothing is computed or drawn before somebody asks for the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.components.figures import tiles
from recipeline.contracts import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Labels = NDArray[np.int64]

POINTS_MOST = 2000
FEATURES_MOST = 20
CLUSTERS_MOST = 20
NUMBERED_MOST = 12
"""Points on the map, rows of the profiles, clusters that are shown (the largest), clusters up to which tiles carry numbers."""


@dataclass(frozen=True)
class Found:
    """What was found on the sealed rows.

    labels        (n,) the cluster of every row
    output        the output frame (n rows)
    features      (m, d) preprocessed rows, those that were drawn; None where nobody kept them
    drawn_labels  (m,) their clusters
    silhouettes   (m,) of them; None where they are undefined
    profiles      the table of that name: feature, mean, sd, then the mean in each cluster
    truth         (n,) known labels; None where there are none
    """

    labels: Labels
    output: pd.DataFrame
    features: Matrix | None
    drawn_labels: Labels
    silhouettes: Matrix | None
    profiles: pd.DataFrame
    truth: NDArray[Any] | None


def of_clusters(found: Found) -> dict[str, Figure]:
    """Sizes always; silhouettes, map, profiles and labels where there is something to draw."""
    drawn = {"sizes": Figure("Cluster sizes", _sizes(found), "Sealed rows in each cluster.")}
    if found.silhouettes is not None:
        drawn["silhouettes"] = Figure(
            "Silhouettes",
            _silhouettes(found),
            "Each row's own, in order, cluster by cluster; the dashed line is their mean. Left of zero a row is nearer to another cluster.",
        )
    if found.features is not None and found.features.shape[1] >= 2 and len(found.features) > 2:
        drawn["map"] = Figure(
            "Map of the rows",
            _map(found),
            "The two directions in which the preprocessed rows vary most (principal components), coloured by cluster.",
        )
    if len(found.profiles):
        drawn["profiles"] = Figure(
            "Profiles",
            _profiles(found),
            "Mean of each feature in each cluster, in standard deviations above or below the mean of all rows; the most telling first.",
        )
    if found.truth is not None and not pd.isna(found.truth).all():
        drawn["labels"] = Figure("Labels and clusters", _labels(found), "Rows of each known label, and the clusters they fell into.")
    return drawn


def _shown(labels: Labels) -> list[int]:
    """The largest clusters, in the order of their numbers."""
    numbers, counts = np.unique(labels, return_counts=True)
    return sorted(int(number) for number in numbers[np.argsort(-counts, kind="stable")[:CLUSTERS_MOST]])


def _colour(place: int) -> str:
    return f"C{place % 8}"


def _sizes(found: Found) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        shown = _shown(found.labels)
        counts = [int((found.labels == number).sum()) for number in shown]
        bars = axes.bar([str(number) for number in shown], counts, color=[_colour(at) for at in range(len(shown))])
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2, fontsize="small")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.set_xlabel("cluster")

    return draw


def _silhouettes(found: Found) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        silhouettes = found.silhouettes
        assert silhouettes is not None
        shown, start, middles = _shown(found.drawn_labels), 0, []
        space = max(1, len(silhouettes) // 60)
        for at, number in enumerate(shown):
            values = np.sort(silhouettes[found.drawn_labels == number])
            axes.fill_betweenx(np.arange(start, start + len(values)), 0, values, color=_colour(at), linewidth=0.8, step="mid")
            middles.append(start + len(values) / 2)
            start += len(values) + space
        axes.axvline(float(silhouettes.mean()), color="grey", linewidth=1.0, linestyle="--")
        axes.axvline(0.0, color="grey", linewidth=0.8)
        axes.set_yticks(middles, [str(number) for number in shown])
        axes.set_xlabel("silhouette")
        axes.set_ylabel("cluster")
        axes.grid(visible=False, axis="y")

    return draw


def _map(found: Found) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        assert found.features is not None
        n = len(found.features)
        rows = np.unique(np.linspace(0, n - 1, min(n, POINTS_MOST)).astype(np.intp))
        centred = found.features - found.features.mean(axis=0)
        values, vectors = np.linalg.eigh(centred.T @ centred)
        order = np.argsort(values)[::-1][:2]
        # The sign of an eigenvector is an accident; its largest entry is made positive, so that the map is the same each time.
        axis = vectors[:, order]
        axis *= np.sign(axis[np.abs(axis).argmax(axis=0), [0, 1]])
        points, labels = centred[rows] @ axis, found.drawn_labels[rows]
        shown = _shown(found.drawn_labels)
        for at, number in enumerate(shown):
            own = labels == number
            axes.scatter(points[own, 0], points[own, 1], s=16, alpha=0.8, linewidths=0, color=_colour(at), label=str(number))
        share = values[order] / max(float(values.sum()), 1e-300)
        axes.set_xlabel(f"first component ({share[0]:.0%} of the variance)")
        axes.set_ylabel(f"second component ({share[1]:.0%})")
        if len(shown) <= 10:
            axes.legend(title="cluster", fontsize="small")

    return draw


def _profiles(found: Found) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        shown = _shown(found.labels)
        table = found.profiles
        means = table[[f"cluster_{number}" for number in shown]].to_numpy(dtype=np.float64)
        scores = (means - table[["mean"]].to_numpy()) / table[["sd"]].to_numpy()
        # The features that tell the clusters apart best, most telling first.
        chosen = np.argsort(-np.nan_to_num(np.abs(scores)).max(axis=1), kind="stable")[:FEATURES_MOST]
        numbered = len(shown) <= NUMBERED_MOST
        words = [[f"{score:+.1f}" if numbered and np.isfinite(score) else "" for score in row] for row in scores[chosen]]
        names = [str(name) for name in table["feature"].iloc[chosen]]
        tiles(axes, scores[chosen] / 2, words, names, [str(number) for number in shown])
        axes.set_xlabel("cluster")

    return draw


def _labels(found: Found) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        assert found.truth is not None
        known = ~pd.isna(found.truth)
        counts = pd.crosstab(found.truth[known].astype(str), found.labels[known])
        counts = counts.iloc[:CLUSTERS_MOST, :CLUSTERS_MOST]
        shares = counts.to_numpy() / np.maximum(counts.to_numpy().sum(axis=1, keepdims=True), 1)
        words = [[str(count) for count in row] for row in counts.to_numpy()]
        tiles(axes, shares, words, [str(label) for label in counts.index], [str(number) for number in counts.columns])
        axes.set_xlabel("cluster")
        axes.set_ylabel("label")

    return draw
