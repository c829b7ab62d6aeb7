"""The page: what a `ReportContent` says, arranged for the template, which escapes whatever it is given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from recipeline.report import pictures, search

if TYPE_CHECKING:
    from jinja2 import Template

    from recipeline.contracts import Figure
    from recipeline.report import ReportContent

ROWS, COLUMNS = 40, 16  # of a table that are shown
TRIALS = 25
FEATURES = 120
OPEN_ROWS = 12  # of tables that stand open
SEEDS = ("seed", "seeds")  # names of random numbers, not amounts: without thousands separators
EQUAL_IS_FINE = ("champion",)  # the same recipe on the same rows is as good as before, and no worse


def render(content: ReportContent) -> str:
    """The HTML text."""
    hpo = content.hpo if content.hpo and content.hpo.get("enabled") else None
    figures = {**content.figures, **content.more_figures}
    return _template().render(
        c=content,
        cards=_cards(content),
        comparison=_comparison(content),
        parts=[_metrics_table(part, values) for part, values in list(content.metrics.items())[1:]],
        figures=_drawn(figures),
        folds=_folds(content.folds),
        audit=_nested(content.audit),
        hpo=_search(hpo) if hpo else None,
        columns=_columns(content),
        tables=sorted(
            (_table(name, frame, _keys(content)) for name, frame in content.tables.items()), key=lambda table: table["shape"][0] > OPEN_ROWS
        ),
        duration=_duration(content.seconds),
        about=_nested(content.about),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("recipeline.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["metric"] = metric
    environment.filters["number"] = number
    environment.filters["cell"] = _cell
    return environment.get_template("page.html.j2")


# --- numbers ---------------------------------------------------------------------------------------


ABSENT = "\N{EN DASH}"


def metric(value: Any) -> str:
    """As `number`, with the zeros at the end: 0.9940 beside 0.9561."""
    if isinstance(value, float) and 1e-3 <= abs(value) < 1000:
        return f"{value:#.4g}"
    return number(value)


def number(value: Any) -> str:
    """Four significant digits, thousands separated; a dash for what is not there."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _cell(value: Any) -> str:
    """A value of a table, cut where it would break the page."""
    item = getattr(value, "item", None)
    if isinstance(value, Mapping):
        text = ", ".join(
            f"{name} {_cell(inner)}" if not isinstance(inner, Mapping) else f"{name} ({_cell(inner)})" for name, inner in value.items()
        )
        return text if len(text) <= 240 else f"{text[:239]}…"
    text = number(item() if callable(item) and getattr(value, "ndim", 1) == 0 else value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


# --- metrics ---------------------------------------------------------------------------------------


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics without their standard deviations."""
    return {name: value for name, value in values.items() if not (name.endswith("_sd") and name[:-3] in values)}


def _headline(content: ReportContent) -> Mapping[str, float]:
    return next(iter(content.metrics.values()), {})


def _cards(content: ReportContent) -> list[dict[str, Any]]:
    """One card per metric of the headline part: the value, and bars for the model and each baseline."""
    values = _headline(content)
    intervals = _intervals(content)
    cards = []
    for name, value in _plain(values).items():
        direction = _direction(name, content)
        rows = [("this model", value), *((who, metrics[name]) for who, metrics in content.baselines.items() if name in metrics)]
        finite = [one for _, one in rows if math.isfinite(one)]
        top = max(finite, default=0.0)
        bars = len(rows) > 1 and top > 0 and all(one >= -0.1 * top for one in finite)  # just below zero is no bar, far below no picture
        beaten = [_better(value, one, direction) or (one == value and who in EQUAL_IS_FINE) for who, one in rows[1:]]
        widths = [f"{100 * max(one, 0.0) / top:.1f}" if bars and math.isfinite(one) else None for _, one in rows]
        cards.append({
            "name": name,
            "value": value,
            "sd": values.get(f"{name}_sd"),
            "interval": intervals.get(name),
            "direction": {"maximize": "higher is better", "minimize": "lower is better"}.get(direction, ""),
            "rows": [{"who": who, "value": one, "width": width} for (who, one), width in zip(rows, widths, strict=True)],
            "worse": bool(direction) and not all(beaten),
        })  # fmt: skip
    return cards


def _direction(name: str, content: ReportContent) -> str:
    """Of a metric, also where it is that of one of several targets (`rmse_Weight`)."""
    targets = content.schema.get("target", {}).get("names", [])
    known = (name, *(name.removesuffix(f"_{target}") for target in targets))
    return next((content.directions[one] for one in known if one in content.directions), "")


def _intervals(content: ReportContent) -> dict[str, str]:
    """Of the table `intervals`, where the headline is one opening of sealed rows: `95 %: 0.9123 to 0.9561`, by metric."""
    table = content.tables.get("intervals")
    if table is None or len(content.folds) > 1 or not {"metric", "level", "low", "high"} <= set(table.columns):
        return {}
    if table["metric"].duplicated().any():  # of parts of the rows, as treatments: none of them is that of the headline
        return {}
    return {
        row["metric"]: f"{100 * row['level']:g} %: {metric(row['low'])} to {metric(row['high'])}"
        for row in table.to_dict("records")
        if math.isfinite(row["low"])
    }


def _better(one: float, other: float, direction: str) -> bool:
    return one > other if direction == "maximize" else one < other


def _comparison(content: ReportContent) -> dict[str, Any] | None:
    """Metrics down, model and baselines across, when there are more metrics than cards can show well."""
    values = _plain(_headline(content))
    if len(values) <= 8 or not content.baselines:
        return None
    return {
        "who": ["this model", *content.baselines],
        "rows": [(name, [value, *(metrics.get(name) for metrics in content.baselines.values())]) for name, value in values.items()],
    }


def _metrics_table(part: str, values: Mapping[str, float]) -> dict[str, Any]:
    return {"part": part, "rows": [(name, value, values.get(f"{name}_sd")) for name, value in _plain(values).items()]}


def _folds(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Every fold, then mean and standard deviation; None for a single opening."""
    if len(folds) < 2:
        return None
    names = _names(folds)
    summary = []
    for title, of in (("mean", _mean), ("sd", _sd)):
        cells: list[Any] = [title]
        for name in names[1:]:
            numbers = [fold[name] for fold in folds if isinstance(fold.get(name), (int, float)) and not isinstance(fold.get(name), bool)]
            cells.append(metric(of(numbers)) if len(numbers) == len(folds) else None)
        summary.append(cells)
    shown = folds if len(folds) <= ROWS else [*folds[: ROWS // 2], *folds[-ROWS // 2 :]]
    return {
        "names": names,
        "numeric": [False, *[True] * (len(names) - 1)],
        "rows": [[metric(fold.get(name)) for name in names] for fold in shown],
        "summary": summary,
        "left_out": len(folds) - len(shown),
    }


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _sd(numbers: Sequence[float]) -> float:
    mean = _mean(numbers)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in numbers) / (len(numbers) - 1))


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys of all the rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


# --- everything else --------------------------------------------------------------------------------


def _drawn(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    return [
        {"title": figure.title, "caption": figure.caption, "svg": (drawn := pictures.svg(figure, name)), "wide": pictures.wide(drawn)}
        for name, figure in figures.items()
    ]


def _nested(data: Any) -> list[dict[str, Any]]:
    """A nested mapping as lines of (name, text | table | lines); long lists are counted, not shown."""
    lines: list[dict[str, Any]] = []
    for name, value in data.items():
        label = str(name).replace("_", " ")
        if isinstance(value, Mapping):
            lines.append({"name": label, "lines": _nested(value)})
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) for item in value):
            names = _names(value)
            if "fold" not in names and len(value) > 1:
                names, value = ["fold", *names], [{"fold": str(at), **item} for at, item in enumerate(value)]
            deep = [key for key in names if any(isinstance(item.get(key), Mapping) for item in value)]
            flat = [key for key in names if key not in deep]
            tables = [_grid(flat, [[item.get(key) for key in flat] for item in value])] if flat else []
            lines.append({"name": label, "tables": [*tables, *(_deep(key, value) for key in deep)]})
        elif isinstance(value, (list, tuple)):
            shown = ", ".join(str(item) if name in SEEDS else _word(item) for item in value[:12]) + (
                f" and {len(value) - 12} more" if len(value) > 12 else ""
            )
            lines.append({"name": label, "text": shown or "none"})
        else:
            lines.append({"name": label, "text": _word(value)})
    return lines


def _grid(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"names": names, "rows": rows[:ROWS], "numeric": _numeric(rows[:ROWS]), "left_out": max(len(rows) - ROWS, 0)}


def _deep(key: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A key whose values are mappings themselves, as a table of its own: a line for each entry, numbered where there are several items."""
    found = [(at, name, inner) for at, item in enumerate(items) for name, inner in (item.get(key) or {}).items()]
    across = _names([inner for _, _, inner in found if isinstance(inner, Mapping)])
    rows = []
    for at, name, inner in found:
        cells = [inner.get(word) for word in across] if isinstance(inner, Mapping) else [inner]
        rows.append([*([str(at)] if len(items) > 1 else []), name, *cells])
    return _grid([*(["fold"] if len(items) > 1 else []), key, *(across or ["value"])], rows)


def _numeric(rows: Sequence[Sequence[Any]]) -> list[bool]:
    """Which columns hold numbers only."""
    columns = zip(*rows, strict=True)
    return [all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in one) for one in columns]


def _word(value: Any) -> str:
    text = number(value)
    return f"{text[:16]}…" if len(text) == 64 and all(digit in "0123456789abcdef" for digit in text) else text  # a SHA-256


def _search(hpo: Mapping[str, Any]) -> dict[str, Any]:
    """The best trials first; those without a score at the end, with their reason."""
    trials = hpo["optimization_history"]
    sign = -1.0 if hpo.get("direction", "maximize") == "maximize" else 1.0
    scored = sorted((t for t in trials if t["state"] == "complete"), key=lambda t: (sign * t["value"], t["number"]))
    rest = [t for t in trials if t["state"] != "complete"]
    failed = [t for t in rest if t["state"] == "failed"]
    listed = [*scored[: TRIALS - min(len(failed), 5)], *failed[:5]]
    names = list(dict.fromkeys(name for trial in scored for name in trial["params"]))[:COLUMNS]
    defaults = next((t for t in trials if t["number"] == 0 and t["state"] == "complete"), None)
    return {
        "facts": hpo,
        "best": list(hpo["best_params"].items()),
        "best_number": scored[0]["number"] if scored else None,
        "defaults": defaults["value"] if defaults else None,
        "duration": _duration(hpo["optimization_time"]),
        "figures": _drawn(search.figures(hpo)),
        "names": names,
        "trials": [{**trial, "cells": [trial["params"].get(name) for name in names]} for trial in listed],
        "left_out": len(trials) - len(listed),
    }


def _columns(content: ReportContent) -> dict[str, Any] | None:
    """The input contract, column by column, beside what the training data had there."""
    described = content.schema.get("columns", [])
    if not described:
        return None
    seen = content.data.get("columns", {})
    rows = [
        {**column, "seen": seen.get(column["name"], {}), "spark": _spark(seen.get(column["name"], {}))} for column in described[:FEATURES]
    ]
    targets = content.schema.get("target", {})
    names = targets.get("names", [])
    return {
        "rows": rows,
        "seen": bool(seen),  # an environment has columns, and no rows
        "left_out": len(described) - len(rows),
        "count": len(described),
        "n": content.data.get("rows"),
        "target": {
            "names": names,
            "classes": targets.get("classes", []),
            "word": "Known labels, for judging only" if targets.get("use") == "judging" else "Target",
            "seen": [{"name": name, **seen[name], "spark": _spark(seen[name])} for name in names if name in seen],
        },
    }


def _spark(seen: Mapping[str, Any]) -> Markup:
    """A histogram the size of a word."""
    bins = seen.get("bins")
    if not bins:
        return Markup("")
    top = max(bins)
    bars = "".join(
        f'<rect x="{5 * i}" y="{18 - height:.1f}" width="4" height="{height:.1f}"/>'
        for i, count in enumerate(bins)
        if (height := (max(1.0, 18 * count / top) if count else 0))
    )
    return Markup(f'<svg class="spark" viewBox="0 0 {5 * len(bins) - 1} 18" aria-hidden="true">{bars}</svg>')  # noqa: S704  # numbers only


def _keys(content: ReportContent) -> set[str]:
    return {column["name"] for column in content.schema.get("columns", ()) if column.get("role") == "key"}


def _table(name: str, frame: Any, keys: set[str]) -> dict[str, Any]:
    """The head of a table; what names a row is text, for 2,881 is no customer."""
    head = frame.iloc[:ROWS, :COLUMNS]
    numeric = [getattr(kind, "kind", "") in "iuf" for kind in head.dtypes]
    return {
        "name": name.removesuffix(".csv").replace("_", " "),
        "names": [str(column) for column in head.columns],
        "numeric": numeric,
        "rows": [
            [
                str(value) if (column in keys or column in SEEDS) and isinstance(value, int) else value
                for column, value in zip(head.columns, row, strict=True)
            ]
            for row in head.astype(object).itertuples(index=False, name=None)
        ],
        "shape": frame.shape,
        "cut": frame.shape[0] > ROWS or frame.shape[1] > COLUMNS,
        "open": frame.shape[0] <= OPEN_ROWS,
    }
