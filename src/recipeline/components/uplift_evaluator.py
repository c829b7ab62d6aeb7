"""What predicted effects are worth on sealed rows: metrics with intervals, curves, and whether the arms can be compared at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.components.metrics import Observed, measure, resolve
from recipeline.components.uplift import ARM, INVERSE, UPLIFT, Compared, Curve, arms, curve
from recipeline.contracts import Evaluation, Figure, Metric, Part, Predictor
from recipeline.errors import RecipeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

log = logging.getLogger("recipeline")

GROUPS = 10
LEVEL = 0.95
POINTS_MOST = 101
"""Rows of the table of curves, and points of their pictures."""
WORK_MOST = 20_000_000
"""Rows times resamples of the bootstrap, so that a report costs seconds at most."""
ROWS_BALANCED = 20_000
LEVELS_MOST = 20
UNBALANCED = 0.1
"""Standardised differences above this are worth a look; Austin (2009), section 4."""


class UpliftEvaluator:
    """Uplift and Qini figures with bootstrap intervals; for the report curves, effects by tenth, and the balance of the arms.

    weighted   metrics weigh the rows by `data_interface.sample_weight_col`; fitting always does
    resamples  of the bootstrap behind the intervals of qini and auuc; 0 for none
    interface  given by the engine: data_interface
    """

    measures: Sequence[Metric] = UPLIFT

    def __init__(self, *, weighted: bool = False, resamples: int = 200, interface: Mapping[str, Any] | None = None) -> None:
        self.weighted, self.resamples, self.interface = weighted, resamples, interface

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        """Predict the part and compare its arms; for several treatments also `<metric>_<treatment>` for each.

        Raises DataError for a metric that is undefined on these rows.
        """
        output = pipeline.predict(part.rows, augmented=True)
        observed: Observed = pipeline.task.observed(output, part.selected, pipeline.schema)
        if not self.weighted:
            observed = replace(observed, weight=None)
        elif observed.weight is None:
            raise RecipeError("weighted metrics need data_interface.sample_weight_col", hint="add it, or leave weighted out")
        control, *treatments = [str(arm) for arm in pipeline.task.arms(pipeline.schema)]
        asked = resolve(part.metrics, UPLIFT)
        found = {metric.name: measure(metric, observed) for metric in asked}
        if len(treatments) > 1:
            for at, treatment in enumerate(treatments):
                one = _only(observed, at)
                found |= {f"{metric.name}_{treatment}": measure(metric, one) for metric in asked}
        if not part.detail:
            return Evaluation(found)
        return Evaluation(found, *self._detail(pipeline, part, observed, control, treatments))

    def _detail(
        self, pipeline: Predictor, part: Part, observed: Observed, control: str, treatments: Sequence[str]
    ) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
        compared = list(zip(treatments, arms(observed.actual, observed.predicted, observed.weight), strict=True))
        resamples = min(self.resamples, WORK_MOST // len(observed.actual))
        random = np.random.default_rng(part.seed)
        bands = [bootstrap(one, resamples, random) for _, one in compared]
        curves = [Drawn(name, curve(one), band) for (name, one), band in zip(compared, bands, strict=True)]
        groups = pd.concat([_groups(name, one) for name, one in compared], ignore_index=True)
        tables = {
            "predictions": _predictions(part, observed, pipeline),
            "arms": _arms(observed, [control, *treatments]),
            "uplift_intervals": pd.concat([_intervals(drawn) for drawn in curves], ignore_index=True),
            "uplift_curve": pd.concat([_points(drawn) for drawn in curves], ignore_index=True),
            "effect_groups": groups,
        }
        drawn = {
            "qini_curve": Figure("Qini curve", _draw_curves(curves, "qini"), _SAID["qini"]),
            "uplift_curve": Figure("Uplift curve", _draw_curves(curves, "gain"), _SAID["gain"]),
            "effect_groups": Figure("Effects by tenth", _draw_groups(groups), _SAID["groups"]),
            "effects": Figure("Predicted effects", _draw_effects(compared), _SAID["effects"]),
        }
        if isinstance(part.selected.X, pd.DataFrame) and len(part.selected.X.columns):
            balance = balanced(part.selected.X, observed.actual, treatments, seed=part.seed)
            tables["balance"] = balance
            drawn["balance"] = Figure("Balance of the arms", _draw_balance(balance), _SAID["balance"])
            if not isinstance((self.interface or {}).get("propensity"), str):
                self._warn(part, observed, treatments)
        return tables, drawn

    def _warn(self, part: Part, observed: Observed, treatments: Sequence[str]) -> None:
        """A treatment that the features predict was not drawn by lot."""
        for at, treatment in enumerate(treatments):
            found = predictability(part.selected.X, observed.actual, at + 1, seed=part.seed)
            if found is not None and found.auc > 0.5 + 3 * found.chance:
                log.warning(
                    "treatment %s can be predicted from the features (ROC AUC %.2f on %d sealed rows): it was not drawn by lot, "
                    "and the arms differ in more than the treatment; give data_interface.propensity as a column, or doubt the effects",
                    treatment, found.auc, found.rows,
                )  # fmt: skip


# --- how sure -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Resampled curves: `qinis`, `auucs` (r,), and the Qini and uplift curves (r, k) at the shares `share` (k,)."""

    share: Floats
    curves: Mapping[str, Floats]
    qinis: Floats
    auucs: Floats


def bootstrap(compared: Compared, resamples: int, random: np.random.Generator) -> Band | None:
    """Curves over rows drawn with replacement within each arm; None without resamples.

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13. The model stays as it is: the spread is that of
    the sealed rows, not of another training. A resample is a vector of counts, so nothing is sorted again.
    """
    if resamples < 2:
        return None
    share = np.linspace(0.0, 1.0, POINTS_MOST)
    lines: dict[str, list[Floats]] = {"gain": [], "qini": []}
    qinis, auucs = [], []
    members = [np.flatnonzero(which) for which in (compared.treated, ~compared.treated)]
    for _ in range(resamples):
        times = np.zeros(len(compared.outcome))
        for rows in members:
            times[rows] = np.bincount(random.integers(0, len(rows), len(rows)), minlength=len(rows))
        found = curve(compared.reweighted(times))
        qinis.append(found.coefficient)
        auucs.append(found.area)
        for name, kept in lines.items():
            kept.append(np.interp(share, found.share, getattr(found, name)))
    return Band(share, {name: np.array(kept) for name, kept in lines.items()}, np.array(qinis), np.array(auucs))


@dataclass(frozen=True)
class Drawn:
    """One treatment's curve with its band."""

    name: str
    curve: Curve
    band: Band | None


# --- whether the arms can be compared -----------------------------------------------------------------


@dataclass(frozen=True)
class Predictability:
    """How well the features tell who was treated; `chance` is the standard deviation of the AUC if they do not; `rows` judged."""

    auc: float
    chance: float
    rows: int


def predictability(X: pd.DataFrame, actual: Floats, arm: int, *, seed: int = 0) -> Predictability | None:
    """ROC AUC of a logistic regression for the treatment, fitted on one half of the rows and judged on the other.

    None where there are fewer than 40 rows of an arm. Under randomisation the AUC is 0.5 up to the standard deviation of the
    Mann-Whitney statistic, sqrt((n1 + n0 + 1) / (12 n1 n0)). Cross-validation would use the rows better, but the AUC over its
    folds varies up to half as much again, because each row serves to fit and to judge.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split

    rows = _sample(np.flatnonzero((actual[:, ARM] == 0) | (actual[:, ARM] == arm)), seed)
    treated = actual[rows, ARM] == arm
    n_1, n_0 = int(treated.sum()), int((~treated).sum())
    numbers = _numbers(X.iloc[rows])
    if min(n_1, n_0) < 40 or numbers.empty:
        return None
    spread = numbers.to_numpy().std(axis=0)
    values = (numbers.to_numpy() - numbers.to_numpy().mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    fit, held, fit_on, truth = train_test_split(values, treated, test_size=0.5, stratify=treated, random_state=seed)
    said = LogisticRegression(max_iter=200).fit(fit, fit_on).predict_proba(held)[:, 1]
    n_1, n_0 = int(truth.sum()), int((~truth).sum())
    return Predictability(float(roc_auc_score(truth, said)), float(np.sqrt((n_1 + n_0 + 1) / (12 * n_1 * n_0))), len(truth))


def balanced(X: pd.DataFrame, actual: Floats, treatments: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Standardised mean differences between each treatment and the controls: treatment, feature, difference, weighted.

    (m_t - m_c) / sqrt((s_t² + s_c²) / 2), Austin (2009), Balance diagnostics for comparing the distribution of baseline
    covariates between treatment groups in propensity-score matched samples, Statistics in Medicine 28. `weighted` is with
    the means weighted by one over the propensity, where it is known. Texts count as one indicator per value.
    """
    rows = _sample(np.arange(len(X)), seed)
    numbers, actual = _numbers(X.iloc[rows]), actual[rows]
    values, control = numbers.to_numpy(), actual[:, ARM] == 0
    lines = []
    for at, treatment in enumerate(treatments):
        treated = actual[:, ARM] == at + 1
        if not treated.any() or not control.any():
            continue
        spread = np.sqrt((values[treated].var(axis=0) + values[control].var(axis=0)) / 2)
        scale = np.where(spread > 0, spread, 1.0)
        plain = (values[treated].mean(axis=0) - values[control].mean(axis=0)) / scale
        means = [np.average(values[which], axis=0, weights=actual[which, INVERSE]) for which in (treated, control)]
        weighted = (means[0] - means[1]) / scale
        lines.append(pd.DataFrame({"treatment": treatment, "feature": numbers.columns, "difference": plain, "weighted": weighted}))
    return pd.concat(lines, ignore_index=True)


def _sample(rows: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    if len(rows) <= ROWS_BALANCED:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, ROWS_BALANCED, replace=False))


def _numbers(X: pd.DataFrame) -> pd.DataFrame:
    """Features as numbers: texts as indicators of their most frequent values, nulls as the mean with an indicator beside it."""
    columns: dict[str, Floats] = {}
    for name in X.columns:
        values = X[name]
        nulls = values.isna().to_numpy()
        if values.dtype.kind in "biuf":
            numbers = values.to_numpy(dtype=np.float64)
        elif values.dtype.kind == "M":
            numbers = np.where(nulls, np.nan, values.to_numpy(dtype="datetime64[ns]").astype(np.int64) / 8.64e13)
        else:
            for level in values.value_counts().index[:LEVELS_MOST]:
                columns[f"{name}={level}"] = (values == level).to_numpy(dtype=np.float64)
            numbers = None
        if numbers is not None:
            columns[str(name)] = np.where(nulls, numbers[~nulls].mean() if not nulls.all() else 0.0, numbers)
        if nulls.any():
            columns[f"{name} is null"] = nulls.astype(np.float64)
    return pd.DataFrame(columns, index=X.index)


# --- tables -------------------------------------------------------------------------------------------


def _only(observed: Observed, at: int) -> Observed:
    """One treatment as if there were no other."""
    rows = np.flatnonzero((observed.actual[:, ARM] == 0) | (observed.actual[:, ARM] == at + 1))
    actual = observed.actual[rows].copy()
    actual[:, ARM] = actual[:, ARM] > 0
    weight = None if observed.weight is None else observed.weight[rows]
    return replace(observed, actual=actual, predicted=observed.predicted[rows, at : at + 1], weight=weight)


def _predictions(part: Part, observed: Observed, pipeline: Predictor) -> pd.DataFrame:
    """The output with outcome and treatment beside it."""
    names = np.array(pipeline.task.arms(pipeline.schema), dtype=object)
    treatment = pipeline.schema.target["treatment"]["name"]
    table = observed.frame.copy()
    table["actual"] = np.asarray(part.selected.extras["target"])
    table[treatment] = pd.Series(names[observed.actual[:, ARM].astype(np.intp)], index=table.index).infer_objects()
    return table


def _arms(observed: Observed, names: Sequence[str]) -> pd.DataFrame:
    """Rows, mean outcome and its standard error in each arm, and the difference from the controls."""
    lines = []
    for code, name in enumerate(names):
        outcome = observed.actual[observed.actual[:, ARM] == code, 0]
        spread = float(outcome.std(ddof=1) / np.sqrt(len(outcome))) if len(outcome) > 1 else float("nan")
        mean = float(outcome.mean()) if len(outcome) else float("nan")
        lines.append({"arm": name, "rows": len(outcome), "mean_outcome": mean, "standard_error": spread})
    table = pd.DataFrame(lines)
    table["difference"] = table["mean_outcome"] - table["mean_outcome"].iloc[0]
    return table


def _intervals(drawn: Drawn) -> pd.DataFrame:
    """qini and auuc with their percentile intervals, and what targeting at random gives."""
    found, band = drawn.curve, drawn.band
    lines = []
    for metric, value, at_random, again in (
        ("qini", found.coefficient, 0.0, None if band is None else band.qinis),
        ("auuc", found.area, found.average / 2, None if band is None else band.auucs),
    ):
        low, high = (float("nan"),) * 2 if again is None else np.quantile(again, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        line = {"treatment": drawn.name, "metric": metric, "value": value, "level": LEVEL, "low": low, "high": high}
        lines.append(line | {"random": at_random})
    return pd.DataFrame(lines)


def _points(drawn: Drawn) -> pd.DataFrame:
    found = drawn.curve
    share = found.share if len(found.share) <= POINTS_MOST else np.linspace(0.0, 1.0, POINTS_MOST)
    gain, qinis = np.interp(share, found.share, found.gain), np.interp(share, found.share, found.qini)
    uplift = np.divide(gain, share, out=np.full(len(share), np.nan), where=share > 0)
    return pd.DataFrame(
        {"treatment": drawn.name, "share": share, "uplift": uplift, "gain": gain, "qini": qinis, "random": share * found.average}
    )


def _groups(name: str, compared: Compared) -> pd.DataFrame:
    """Tenths of the rows from the largest predicted effect down: predicted and observed effect, with its 95 % interval.

    The interval is the normal one of a difference of two means, each with the variance of its own arm and the effective
    number of its weighted rows. Rows with one predicted effect stay together, so there may be fewer groups than ten.
    """
    share = (np.cumsum(compared.size) - compared.size / 2) / compared.size.sum()
    begins = np.concatenate([[0], compared.last[:-1] + 1])
    middle = (share[begins] + share[compared.last]) / 2
    group = np.repeat(np.minimum((middle * GROUPS).astype(np.intp), GROUPS - 1), np.diff(compared.last, prepend=-1))
    lines = []
    for number in np.unique(group):
        inside = group == number
        line: dict[str, Any] = {"treatment": name, "group": int(number) + 1, "rows": int(inside.sum())}
        line["predicted"] = float(np.average(compared.effect[inside], weights=compared.size[inside]))
        means, errors = [], []
        for word, which in (("treated", compared.treated), ("controls", ~compared.treated)):
            outcome, weight = compared.outcome[inside & which], compared.weight[inside & which]
            line[word] = len(outcome)
            usable = len(outcome) > 1 and weight.sum() > 0
            mean = float(np.average(outcome, weights=weight)) if usable else float("nan")
            effective = weight.sum() ** 2 / (weight**2).sum() if usable else 0.0
            spread = np.average((outcome - mean) ** 2, weights=weight) / (effective - 1) if effective > 1 else float("nan")
            means.append(mean)
            errors.append(float(spread))
        half = 1.959964 * float(np.sqrt(sum(errors)))
        line["observed"] = means[0] - means[1]
        lines.append(line | {"low": line["observed"] - half, "high": line["observed"] + half})
    return pd.DataFrame(lines)


# --- pictures -----------------------------------------------------------------------------------------

_SAID = {
    "qini": "Gain per treated person, as more and more people are treated, the largest predicted effects first. Dashed: as many "
    "drawn at random. The area between is the Qini coefficient. Band: 95 % of resamples of the sealed rows.",
    "gain": "Gain per person of the population, as more and more people are treated, the largest predicted effects first. "
    "Dashed: as many drawn at random. Band: 95 % of resamples of the sealed rows.",
    "groups": "Tenths of the sealed rows, the largest predicted effects first: observed effect (bars, 95 % intervals) and "
    "predicted effect (dots). A good model falls from left to right, and its dots lie within the intervals.",
    "effects": "How many rows have which predicted effect. Dashed: the observed average effect.",
    "balance": "Difference between treated and controls in standard deviations. In a randomised trial they are near 0, and "
    "beyond ±0.1 worth a look. Filled: as they are; hollow: weighted by the propensity, where it is known.",
}


def _draw_curves(curves: Sequence[Drawn], which: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for at, drawn in enumerate(curves):
            colour = f"C{at}"
            share, values = drawn.curve.share, getattr(drawn.curve, which)
            if drawn.band is not None:
                low, high = np.quantile(drawn.band.curves[which], ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
                axes.fill_between(drawn.band.share, low, high, color=colour, alpha=0.15, linewidth=0)
            label = f"{drawn.name} (Qini {drawn.curve.coefficient:.4f})" if which == "qini" else drawn.name
            axes.plot(share, values, color=colour, label=label)
            axes.plot([0, 1], [0, drawn.curve.average], color=colour, linewidth=0.8, linestyle="--")
        axes.axhline(0.0, color="grey", linewidth=0.5)
        axes.set_xlabel("share treated")
        axes.set_ylabel("gain per treated person" if which == "qini" else "gain per person")
        axes.legend(loc="best", fontsize="small")

    return draw


def _draw_groups(groups: pd.DataFrame) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        names = list(dict.fromkeys(groups["treatment"]))
        width = 0.8 / len(names)
        for at, name in enumerate(names):
            table = groups[groups["treatment"] == name]
            place = table["group"].to_numpy(dtype=np.float64) + (at - (len(names) - 1) / 2) * width
            error = (table["high"] - table["observed"]).to_numpy()
            axes.bar(place, table["observed"].to_numpy(), width=width, yerr=error, color=f"C{at}", alpha=0.5, ecolor="grey", label=name)
            axes.scatter(place, table["predicted"].to_numpy(), s=18, color="black", zorder=3, label="predicted" if at == 0 else None)
        axes.axhline(0.0, color="grey", linewidth=0.8)
        axes.set_xlabel("tenth, the largest predicted effects first")
        axes.set_ylabel("effect")
        axes.set_xticks(range(1, GROUPS + 1))
        axes.legend(loc="best", fontsize="small")

    return draw


def _draw_effects(compared: Sequence[tuple[str, Compared]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for at, (name, one) in enumerate(compared):
            axes.hist(one.effect, bins=40, weights=one.size, color=f"C{at}", alpha=0.5, label=name)
            axes.axvline(one.average(), color=f"C{at}", linestyle="--", linewidth=1.0)
        axes.set_xlabel("predicted effect")
        axes.set_ylabel("rows")
        axes.legend(loc="best", fontsize="small")

    return draw


def _draw_balance(balance: pd.DataFrame) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        largest = balance.groupby("feature")["difference"].agg(lambda column: column.abs().max()).sort_values(kind="stable")
        shown = largest.index[-20:]
        for at, name in enumerate(dict.fromkeys(balance["treatment"])):
            table = balance[balance["treatment"] == name].set_index("feature").loc[shown]
            axes.scatter(table["difference"].to_numpy(), shown.astype(str).tolist(), color=f"C{at}", s=20, label=name)
            if not np.allclose(table["difference"], table["weighted"]):
                axes.scatter(table["weighted"].to_numpy(), shown.astype(str).tolist(), facecolors="none", edgecolors=f"C{at}", s=30)
        for border in (-UNBALANCED, UNBALANCED):
            axes.axvline(border, color="grey", linewidth=0.8, linestyle="--")
        axes.axvline(0.0, color="grey", linewidth=0.5)
        axes.set_xlabel("standardised mean difference")
        axes.legend(loc="best", fontsize="small")

    return draw
