"""How well predicted effects rank people: uplift and Qini curves, and figures of merit drawn from them.

Nobody is seen both treated and untreated, so an effect is judged on groups. Rows are sorted by the predicted effect,
the largest first. Of the first rows up to a share φ, with arm means weighted by w (1 unless the task says otherwise):

    u(φ) = mean outcome of the treated - mean outcome of the controls       uplift among the first φ
    G(φ) = φ u(φ)                                                           uplift curve: gain per person of the population
    Q(φ) = u(φ) N_t(φ) / N_t(1)                                             Qini curve: gain per treated person

N_t(φ) is the (weighted) number of treated rows among the first φ. Both curves begin at 0 and end at the average effect
u(1); targeting at random gives the straight line between. Q is Radcliffe's (2007) R_t - R_c N_t / N_c, divided by the
number treated. G is the
"cumulative gain" of Gutierrez and Gérardy (2016), divided by the number of rows.

Ties: rows with one predicted effect cannot be ordered, so a curve runs straight across them and no figure depends on the
order of the rows. A constant prediction is targeting at random: its Qini is 0 exactly. Where the first rows hold only one
arm no curve has a point; it runs straight to the first that hold both.

Metrics take `actual` (n, 3): outcome, arm (0 control, 1 … t treatments), and one over the probability of that arm (1 where the
arms are compared as they are); and `predicted` (n, t) effects. Of several treatments each is judged against the controls,
and the figure is the unweighted mean. Units are those of the outcome, per person.

    Radcliffe (2007), Using control groups to target on predicted lift, Direct Marketing Analytics Journal 1
    Radcliffe and Surry (2011), Real-world uplift modelling with significance-based uplift trees, Stochastic Solutions
    Rzepakowski and Jaroszewicz (2012), Decision trees for uplift modeling with single and multiple treatments, KAIS 32
    Gutierrez and Gérardy (2016), Causal inference and uplift modeling: a review of the literature, PMLR 67
    Devriendt, Van Belle, Guns and Verbeke (2022), Learning to rank for uplift modeling, IEEE TKDE 34
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.contracts import Metric
from recipeline.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

OUTCOME, ARM, INVERSE = 0, 1, 2
"""Columns of `actual`."""


@dataclass(frozen=True)
class Compared:
    """The rows of one treatment and of the controls, sorted by the predicted effect, the largest first.

    outcome, effect   (n,)      treated   (n,) booleans
    size              (n,) how much of the population a row stands for
    weight            (n,) `size` over the probability of the row's arm: what means are weighted by
    last              (b,) positions at which a block of tied effects ends
    """

    outcome: Floats
    effect: Floats
    treated: NDArray[np.bool_]
    size: Floats
    weight: Floats
    last: NDArray[np.intp]

    @classmethod
    def of(cls, actual: Floats, effect: Floats, weight: Floats | None = None, *, arm: int = 1) -> Compared:
        """One arm against the controls.

        actual   (n, 3)      effect   (n,) predicted of this arm      weight   (n,) or None

        Raises DataError where one of the two has no row.
        """
        rows = np.flatnonzero((actual[:, ARM] == 0) | (actual[:, ARM] == arm))
        rows = rows[np.argsort(-effect[rows], kind="stable")]
        size = np.ones(len(rows)) if weight is None else np.asarray(weight, dtype=np.float64)[rows]
        treated = actual[rows, ARM] == arm
        ordered = effect[rows]
        last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(rows) else np.empty(0, np.intp)
        found = cls(actual[rows, OUTCOME], ordered, treated, size, size * actual[rows, INVERSE], last)
        for which, name in ((treated, "treated rows"), (~treated, "control rows")):
            if not found.weight[which].sum() > 0:
                raise _undefined("uplift", f"there are no {name} among those judged")
        return found

    def reweighted(self, times: Floats) -> Compared:
        """The same rows, each as often as `times` (n,) says: a resample that needs no sorting."""
        return Compared(self.outcome, self.effect, self.treated, self.size * times, self.weight * times, self.last)

    def average(self) -> float:
        """The observed average effect: difference of the (weighted) means of the two arms."""
        return _mean(self.outcome, self.weight * self.treated) - _mean(self.outcome, self.weight * ~self.treated)


@dataclass(frozen=True)
class Curve:
    """Points of both curves, the origin first: `share`, `gain`, `qini` (k,) each; from 0 to 1 in `share`."""

    share: Floats
    gain: Floats
    qini: Floats

    @property
    def average(self) -> float:
        """The observed average effect, where both curves end."""
        return float(self.gain[-1])

    @property
    def coefficient(self) -> float:
        """Area between the Qini curve and the straight line to its end."""
        return _area(self.share, self.qini) - self.average / 2

    @property
    def area(self) -> float:
        """Area under the uplift curve."""
        return _area(self.share, self.gain)


def curve(compared: Compared) -> Curve:
    """The uplift curve G and the Qini curve Q."""
    treated, control = compared.weight * compared.treated, compared.weight * ~compared.treated
    n_t, n_c = np.cumsum(treated)[compared.last], np.cumsum(control)[compared.last]
    r_t, r_c = np.cumsum(treated * compared.outcome)[compared.last], np.cumsum(control * compared.outcome)[compared.last]
    share = np.cumsum(compared.size)[compared.last]
    both = (n_t > 0) & (n_c > 0)
    both[-1] = True
    n_t, n_c, share = n_t[both], n_c[both], share[both] / share[-1]
    uplift = r_t[both] / n_t - r_c[both] / n_c
    return Curve(*(np.concatenate([[0.0], values]) for values in (share, share * uplift, uplift * (n_t / n_t[-1]))))


def qini(compared: Compared) -> float:
    """Area between the Qini curve and the straight line of targeting at random.

    Radcliffe (2007), without his division by the area of an ideal curve, which numeric outcomes do not have; nor by the
    average effect, which may be 0 where a ranking is worth most.
    """
    return curve(compared).coefficient


def auuc(compared: Compared) -> float:
    """Area under the uplift curve G; half the average effect for targeting at random.

    Of the variants that Devriendt et al. (2022) list, the joint ranking: treated and control rows
    are sorted together, and nothing is subtracted or normalised.
    """
    return curve(compared).area


def uplift_at(compared: Compared, share: float) -> float:
    """u(φ) for one φ: the observed effect among the share of rows with the largest predictions.

    Rows tied at the border count with the fraction of them that fits into the share.

    Raises DataError where one arm has no row there.
    """
    ends = np.cumsum(compared.size)[compared.last] / compared.size.sum()
    begins = np.concatenate([[0.0], ends[:-1]])
    inside = np.clip((share - begins) / np.maximum(ends - begins, np.finfo(float).tiny), 0.0, 1.0)
    fraction = np.repeat(inside, np.diff(compared.last, prepend=-1))
    weight = compared.weight * fraction
    for which, name in ((compared.treated, "treated"), (~compared.treated, "control")):
        if not weight[which].sum() > 0:
            raise _undefined(f"uplift_at_{share * 100:g}", f"the first {share:.0%} hold no {name} row")
    return _mean(compared.outcome, weight * compared.treated) - _mean(compared.outcome, weight * ~compared.treated)


def ate_error(compared: Compared) -> float:
    """Size of the difference between the mean predicted effect and the observed average effect."""
    return abs(_mean(compared.effect, compared.size) - compared.average())


# --- as metrics ---------------------------------------------------------------------------------------


def arms(actual: Floats, predicted: Floats, weight: Floats | None = None) -> Iterator[Compared]:
    """Each treatment against the controls, in the order of the columns of `predicted` (n, t)."""
    effects = predicted.reshape(len(actual), -1)
    for column in range(effects.shape[1]):
        yield Compared.of(actual, effects[:, column], weight, arm=column + 1)


def _over_arms(actual: Floats, predicted: Floats, *, of: Callable[..., float], weight: Floats | None = None) -> float:
    return float(np.mean([of(compared) for compared in arms(actual, predicted, weight)]))


def _metric(name: str, direction: Any, of: Callable[..., float], aliases: tuple[str, ...], summary: str) -> Metric:
    return Metric(name, direction, "prediction", partial(_over_arms, of=of), aliases, summary)


UPLIFT: tuple[Metric, ...] = (
    _metric("qini", "maximize", qini, ("qini_score", "qini_coefficient"), "area between the Qini curve and targeting at random (0)"),
    _metric("auuc", "maximize", auuc, ("auuc_score",), "area under the uplift curve; half the average effect for targeting at random"),
    _metric("uplift_at_10", "maximize", partial(uplift_at, share=0.1), (), "observed effect among the tenth with the largest predictions"),
    _metric("uplift_at_30", "maximize", partial(uplift_at, share=0.3), (), "observed effect among the 30 % with the largest predictions"),
    _metric("ate_error", "minimize", ate_error, (), "size of mean predicted effect minus observed average effect"),
)


# --- arithmetic ---------------------------------------------------------------------------------------


def _mean(values: Floats, weight: Floats) -> float:
    return float(np.dot(values, weight) / weight.sum())


def _area(x: Floats, y: Floats) -> float:
    return float(np.trapezoid(y, x))


def _undefined(name: str, reason: str) -> DataError:
    return DataError(f"{name} is undefined: {reason}", hint="judge on more rows, or stratify the split", slug="undefined-metric")


__all__ = ["UPLIFT", "Compared", "Curve", "arms", "ate_error", "auuc", "curve", "qini", "uplift_at"]
