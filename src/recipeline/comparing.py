"""Two runs side by side: recipe, data, the rows they were judged on, metrics, and how sure the difference is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline import artifact, document, logs, runs
from recipeline.contracts import Metric, Selected
from recipeline.errors import DataError, RecipelineError, dotted
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from recipeline.contracts import Progress
    from recipeline.runs import Opened
    from recipeline.settings import Settings

log = logging.getLogger("recipeline")

RESAMPLES = 2_000
LEVEL = 0.95
SEED = 42
PREDICTIONS = "tables/predictions.parquet"
TOLERANCE = 1e-9  # a figure of the table against the figure of the run: the same sums in the same order
UNDEFINED = 0.05  # share of resamples that a metric may be undefined on (a class that was not drawn)


@dataclass(frozen=True)
class Interval:
    """Where the difference B - A lies with probability LEVEL, had other rows of the same kind been sealed."""

    low: float
    high: float


def compare(a: str, b: str, settings: Settings, *, resamples: int = RESAMPLES, progress: Progress | None = None) -> dict[str, Any]:
    """What `compare --json` prints; differences are B - A.

    a, b       runs as `find_run` takes them
    resamples  of the bootstrap; fewer are faster and coarser
    """
    one, other = runs.open_run(a, settings), runs.open_run(b, settings)
    metrics = _metrics(one, other)
    sealed = _sealed(one, other)
    reason = _no_interval(one, other, sealed)
    if reason is None:
        reason = _add_intervals(metrics, one, other, resamples, progress)
    for row in metrics:
        del row["of"]
    bootstrap = {"method": "paired percentile bootstrap", "level": LEVEL, "resamples": resamples, "seed": SEED}
    return {
        "a": _facts(one),
        "b": _facts(other),
        "recipe": differences(_recipe(one), _recipe(other)),
        "parameters": differences(one.manifest.about.get("parameters", {}), other.manifest.about.get("parameters", {})),
        "versions": differences(one.manifest.about["versions"], other.manifest.about["versions"]),
        "data": {"same": _fingerprint(one) == _fingerprint(other), "a": _fingerprint(one), "b": _fingerprint(other)},
        "sealed": sealed,
        "metrics": metrics,
        "intervals": {"why_none": reason} if reason else bootstrap,
    }


def differences(a: Any, b: Any) -> list[dict[str, Any]]:
    """Values of plain data that differ: dotted key, the value in A and in B; None where there is none. A list is one value."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    keys = [*left, *(key for key in right if key not in left)]
    return [
        {"key": dotted(key), "a": _shown(left.get(key)), "b": _shown(right.get(key))}
        for key in keys
        if key not in left or key not in right or not _equal(left[key], right[key])
    ]


def _leaves(data: Any, key: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Named parts in a list (`{name: rf, estimator: …}`) go by their place, every other list is one value."""
    if isinstance(data, Mapping) and data:
        for name, value in data.items():
            yield from _leaves(value, (*key, str(name)))
    elif isinstance(data, list) and any(isinstance(item, Mapping) for item in data):
        for index, value in enumerate(data):
            yield from _leaves(value, (*key, index))
    elif key:
        yield key, data


def _shown(value: Any) -> Any:
    """A password that somebody wrote into a recipe is not repeated."""
    return logs.mask(value) if isinstance(value, str) else value


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)  # 1 and true and 1.0 are three values of a recipe


def _recipe(run: Opened) -> Any:
    return document.read(run.folder / "recipe.yaml").data


def _fingerprint(run: Opened) -> str:
    return str(run.manifest.about["data_fingerprint"])


def _facts(run: Opened) -> dict[str, Any]:
    about = run.manifest.about
    return {name: about[name] for name in ("run_id", "name", "created")} | {"artifact": str(run.folder)}


def _sealed(a: Opened, b: Opened) -> dict[str, Any]:
    """Whether both were judged on the same rows; None where a run cannot tell (its data have no rows)."""
    one, other = (artifact.read_json(run.folder / "split.json").get("sealed", []) for run in (a, b))
    return {"same": one == other if one and other else None, "a": len(one), "b": len(other)}


# --- metrics ---------------------------------------------------------------------------------------------------------


def _metrics(a: Opened, b: Opened) -> list[dict[str, Any]]:
    one, other = (run.pipeline.facts["metrics"]["metrics"] for run in (a, b))
    rows = []
    for name in dict.fromkeys((*one, *other)):
        metric = _metric(name, a) or _metric(name, b)
        direction = None if metric is None else metric.direction
        left, right = one.get(name), other.get(name)
        difference = None if left is None or right is None else right - left
        rows.append(
            {
                "metric": name,
                "direction": direction,
                "a": left,
                "b": right,
                "difference": difference,
                "better": _better(difference, direction),
                "interval": None,
                "of": metric,
            }
        )
    return rows


def _metric(name: str, run: Opened) -> Metric | None:
    """The metric that a figure is of: its own name, or `<metric>_<target>` of several targets. A spread over folds is none."""
    components = run.components
    known: dict[str, Metric] = {one.name: one for one in (*components.metrics, *components.task.metrics)}
    for target in ("", *(f"_{name}" for name in run.pipeline.schema.target.get("names", ()))):
        if name.endswith(target) and (metric := known.get(name.removesuffix(target))) is not None:
            return metric
    return None


def _better(difference: float | None, direction: str | None) -> str | None:
    if difference is None or direction is None or np.isnan(difference):
        return None
    if difference == 0:
        return "same"
    return "b" if (difference > 0) == (direction == "maximize") else "a"


# --- how sure --------------------------------------------------------------------------------------------------------


def _no_interval(a: Opened, b: Opened, sealed: Mapping[str, Any]) -> str | None:
    """Why the two cannot be compared row by row; None where they can."""
    if not sealed["same"]:
        return "the runs were judged on different rows" if sealed["same"] is False else "the data of a run have no rows"
    if sealed["a"] != 1:
        return f"the runs were judged over {sealed['a']} folds, whose models differ; an interval needs one sealed part"
    for label, run in (("A", a), ("B", b)):
        if not (run.folder / PREDICTIONS).is_file():
            return f"run {label} kept no {PREDICTIONS}"
        if not hasattr(run.components.task, "observed"):
            return f"the task {run.recipe.task_type} does not say how its output is measured"
        if getattr(run.components.evaluator, "weighted", False):
            return f"the metrics of run {label} are weighted, and {PREDICTIONS} has no weights"
    return None


def _add_intervals(metrics: Sequence[dict[str, Any]], a: Opened, b: Opened, resamples: int, progress: Progress | None) -> str | None:
    """Fill `interval` of every metric that the kept predictions give again; why there is none at all, or None."""
    left, right = _observed(a), _observed(b)
    if left is None or right is None:
        return f"the truth in {PREDICTIONS} is not that of the targets of training"
    if len(left.actual) != len(right.actual) or not np.array_equal(left.actual, right.actual):
        return "the kept predictions do not hold the same truth in the same order"
    usable = [row for row in metrics if row["difference"] is not None and row["of"] is not None and row["of"].name == row["metric"]]
    usable = [row for row in usable if _again(row["of"], left, row["a"]) and _again(row["of"], right, row["b"])]
    if not usable:
        return "no metric of both runs can be computed from the kept predictions"
    found = paired_bootstrap([row["of"] for row in usable], left, right, resamples=resamples, progress=progress)
    for row, interval in zip(usable, found, strict=True):
        row["interval"] = None if interval is None else [interval.low, interval.high]
    return None


def _observed(run: Opened) -> Any | None:
    """What the run's sealed rows were and what it said, from the kept table, in the form metrics take.

    None where the table does not hold the truth as the run's own schema describes it.
    """
    table = files.read_frame(run.folder / PREDICTIONS)
    schema = run.pipeline.schema
    targets = schema.target.get("names", ())
    names = ["actual"] if len(targets) == 1 else [f"actual_{name}" for name in targets]
    if not names or not set(names) <= set(table.columns):
        return None
    truth = table[names[0]].to_numpy() if len(names) == 1 else table[names].to_numpy()
    encoded = _encoded(truth, schema.target)
    if encoded is None:
        return None
    output = table.drop(columns=[*names, *(name.replace("actual", "residual", 1) for name in names)], errors="ignore")
    return run.components.task.observed(output, Selected(X=output, y=encoded), schema)


def _encoded(truth: NDArray[Any], target: Mapping[str, Any]) -> NDArray[Any] | None:
    """Labels as their place among the sorted classes, as a task encodes them; numbers as they are; None for anything else."""
    if "classes" not in target:
        return truth.astype(np.float64) if truth.dtype.kind in "iuf" else None
    places = {label: code for code, label in enumerate(target["classes"])}
    codes = [places.get(label) for label in truth.tolist()]
    return None if None in codes else np.array(codes, dtype=np.intp)


def _again(metric: Metric, observed: Any, value: float) -> bool:
    """Whether the kept predictions give the figure that the run reported; an evaluator may have computed it otherwise."""
    try:
        return abs(_measure(metric, observed) - value) <= TOLERANCE * max(1.0, abs(value))
    except RecipelineError:
        return False  # this metric gets no interval, and its line says so


def _measure(metric: Metric, observed: Any) -> float:
    from recipeline.components.metrics import measure

    return measure(metric, observed)


def paired_bootstrap(
    metrics: Sequence[Metric], a: Any, b: Any, *, resamples: int = RESAMPLES, seed: int = SEED, progress: Progress | None = None
) -> list[Interval | None]:
    """Percentile intervals of metric(B) - metric(A) over the same rows (n,), one for each metric.

    Rows are drawn with replacement, the same ones for A and B, so that what makes a row hard for both cancels out; the
    interval runs between the (1 - LEVEL) / 2 quantiles of the differences. Efron and Tibshirani (1993), An Introduction
    to the Bootstrap, chapter 13 (percentiles) and chapter 8 (what is drawn is the unit that was sampled: here the row).

    It tells how the difference varies with the rows, not with another training. Rows that depend on each other (groups,
    time) make it too narrow. None where a metric is undefined on more than a share UNDEFINED of the resamples.
    """
    random = np.random.default_rng(seed)
    n = len(a.actual)
    frames = any(metric.needs == "frame" for metric in metrics)
    drawn: list[list[float]] = [[] for _ in metrics]
    for number in range(resamples):
        rows = random.integers(0, n, n)
        left, right = _taken(a, rows, frames=frames), _taken(b, rows, frames=frames)
        for at, metric in enumerate(metrics):
            try:
                drawn[at].append(_measure(metric, right) - _measure(metric, left))
            except DataError:
                continue  # counted below: the metric is undefined on these rows
        if progress is not None and number % 50 == 0:
            progress.advance(number, resamples, "resamples")
    tail = (1 - LEVEL) / 2
    found: list[Interval | None] = []
    for metric, values in zip(metrics, drawn, strict=True):
        missing = resamples - len(values)
        if missing > UNDEFINED * resamples:
            log.warning("%s is undefined on %d of %d resamples: no interval", metric.name, missing, resamples)
            found.append(None)
        else:
            low, high = np.quantile(values, (tail, 1 - tail))
            found.append(Interval(float(low), float(high)))
    return found


def _taken(observed: Any, rows: NDArray[np.intp], *, frames: bool) -> Any:
    frame: pd.DataFrame = observed.frame.iloc[rows] if frames else observed.frame  # taking it costs more than most metrics
    changed = {name: None if (value := getattr(observed, name)) is None else value[rows] for name in _BY_ROW}
    return replace(observed, frame=frame, **changed)


_BY_ROW = ("actual", "predicted", "probability", "score", "weight")


# --- as text ---------------------------------------------------------------------------------------------------------


def as_text(answer: Mapping[str, Any]) -> str:
    """The comparison as a person reads it."""
    from recipeline.console import table

    lines = [f"{label.upper()}  {answer[label]['run_id'][:8]}  {answer[label]['name']}  {answer[label]['created']}" for label in ("a", "b")]
    for title in ("recipe", "parameters", "versions"):
        if rows := answer[title]:
            lines += ["", f"{title}: {len(rows)} differ", table([{**row, **_words(row)} for row in rows], ["key", "a", "b"])]
        elif title == "recipe":
            lines += ["", "recipe: the same"]
    same = {True: "the same", False: "different", None: "not known"}
    lines += ["", f"data: {same[answer['data']['same']]}", f"sealed rows: {same[answer['sealed']['same']]}", ""]
    shown = [
        row | {"difference": None if row["difference"] is None else f"{row['difference']:+.4g}", "interval": _span(row["interval"])}
        for row in answer["metrics"]
    ]
    about = answer["intervals"]
    columns = ["metric", "direction", "a", "b", "difference", "better"]
    if why := about.get("why_none"):
        return "\n".join([*lines, table(shown, columns), "", f"no interval: {why}"])
    made = f"{about['method']}, {about['level']:.0%}, {about['resamples']} resamples, seed {about['seed']}"
    note = f"interval of the difference b - a: {made}"
    return "\n".join([*lines, table(shown, [*columns, "interval"]), "", note])


def _words(row: Mapping[str, Any]) -> dict[str, str]:
    return {label: "-" if row[label] is None else str(row[label]) for label in ("a", "b")}


def _span(interval: Sequence[float] | None) -> str | None:
    return None if interval is None else f"[{interval[0]:+.4g}, {interval[1]:+.4g}]"
