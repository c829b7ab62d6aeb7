"""Uplift and Qini figures: by hand, against a second definition, against CausalML, and what must not change them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recipeline.components.uplift import UPLIFT, Compared, arms, auuc, curve, qini, uplift_at
from recipeline.errors import DataError

METRICS = {metric.name: metric for metric in UPLIFT}


def actual(outcome, arm, inverse=None) -> np.ndarray:
    inverse = np.ones(len(outcome)) if inverse is None else inverse
    return np.column_stack([np.asarray(outcome, float), np.asarray(arm, float), np.asarray(inverse, float)])


def trial(n: int, seed: int, *, treatments: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of a randomised trial, and predictions that know something."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, treatments))
    arm = random.integers(0, treatments + 1, n)
    effect = np.where(arm > 0, x[np.arange(n), np.maximum(arm - 1, 0)], 0.0)
    return actual(random.normal(size=n) + effect, arm), x + random.normal(size=x.shape)


def by_definition(truth: np.ndarray, effect: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Qini and AUUC of one treatment, one prefix after the other, rows with one prediction entering together."""
    size = np.ones(len(truth)) if weight is None else weight
    points = [(0.0, 0.0, 0.0)]
    treated, inverse = truth[:, 1] == 1, truth[:, 2]
    for level in sorted(set(effect.tolist()), reverse=True):
        inside = effect >= level
        w = size * inverse * inside
        if w[treated].sum() > 0 and w[~treated].sum() > 0:
            uplift = np.average(truth[treated, 0], weights=w[treated]) - np.average(truth[~treated, 0], weights=w[~treated])
            share = size[inside].sum() / size.sum()
            points.append((share, share * uplift, uplift * w[treated].sum() / (size * inverse)[treated].sum()))
    share, gain, line = (np.array(column) for column in zip(*points, strict=True))
    area = [float(sum((b - a) * (u + v) / 2 for a, b, u, v in zip(share, share[1:], y, y[1:], strict=False))) for y in (line, gain)]
    return area[0] - line[-1] / 2, area[1]


def test_a_case_by_hand():
    """Four rows; the two on top were won by the treatment, the two below were not.

    Sorted: treated 1, control 0 | treated 0, control 1. Points at shares 1/4 (no control: none), 1/2, 3/4, 1:
    uplift 1, 1/2, 0 (means 1-0, 1/2-0, 1/2-1/2). Gain 1/2, 3/8, 0. Qini: times N_t/2: 1/2, 1/2, 0.
    """
    truth = actual([1, 0, 0, 1], [1, 0, 1, 0])
    found = curve(Compared.of(truth, np.array([4.0, 3.0, 2.0, 1.0])))
    np.testing.assert_allclose(found.share, [0, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.gain, [0, 0.5, 0.375, 0])
    np.testing.assert_allclose(found.qini, [0, 0.5, 0.5, 0])
    compared = Compared.of(truth, np.array([4.0, 3.0, 2.0, 1.0]))
    assert qini(compared) == pytest.approx(0.125 + 0.125 + 0.0625)
    assert auuc(compared) == pytest.approx(0.125 + (0.5 + 0.375) / 8 + 0.375 / 8)
    assert uplift_at(compared, 0.5) == 1.0
    assert uplift_at(compared, 1.0) == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_figures_are_those_of_the_definition(seed, ties, weighted):
    """A slow second road over every prefix, with ties, weights and propensities."""
    truth, predicted = trial(120, seed)
    random = np.random.default_rng(seed)
    if ties:
        predicted = np.round(predicted)
    if weighted:
        truth[:, 2] = random.uniform(1.1, 5, len(truth))
    weight = random.uniform(0.1, 3, len(truth)) if weighted else None
    expected = by_definition(truth, predicted[:, 0], weight)
    assert METRICS["qini"].function(truth, predicted, weight=weight) == pytest.approx(expected[0], abs=1e-12)
    assert METRICS["auuc"].function(truth, predicted, weight=weight) == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_curves_are_those_of_causalml(seed):
    """`get_qini` and `get_cumgain`, row for row where both arms are there: theirs count people, ours are per person."""
    from causalml.metrics import auuc_score, get_cumgain, get_qini, qini_score

    truth, predicted = trial(400, seed)
    frame = pd.DataFrame({"y": truth[:, 0], "w": truth[:, 1], "model": predicted[:, 0]})
    found = curve(Compared.of(truth, predicted[:, 0]))
    at = np.round(found.share * len(truth)).astype(int)
    np.testing.assert_allclose(found.gain * len(truth), get_cumgain(frame)["model"].to_numpy()[at], atol=1e-9)
    np.testing.assert_allclose(found.qini * truth[:, 1].sum(), get_qini(frame)["model"].to_numpy()[at], atol=1e-9)
    # Its areas are means over the points where ours are trapezia: they agree to the width of a step.
    theirs = float(qini_score(frame, normalize=False)["model"]) / truth[:, 1].sum()
    assert METRICS["qini"].function(truth, predicted) == pytest.approx(theirs, abs=2 / len(truth))
    theirs = float(auuc_score(frame, normalize=False)["model"]) / len(truth)
    assert METRICS["auuc"].function(truth, predicted) == pytest.approx(theirs, abs=2 / len(truth))


@pytest.mark.parametrize("metric", UPLIFT, ids=lambda metric: metric.name)
@pytest.mark.parametrize("treatments", [1, 3])
def test_no_figure_depends_on_the_order_of_the_rows(metric, treatments):
    """Also not where many rows are tied."""
    truth, predicted = trial(600, 3, treatments=treatments)
    predicted = np.round(predicted)
    order = np.random.default_rng(0).permutation(len(truth))
    assert metric.function(truth[order], predicted[order]) == pytest.approx(metric.function(truth, predicted), abs=1e-12)


@pytest.mark.parametrize("metric", UPLIFT, ids=lambda metric: metric.name)
def test_a_row_of_weight_two_is_two_rows(metric):
    """And a row of weight zero is none."""
    truth, predicted = trial(200, 4)
    weight = np.random.default_rng(1).integers(0, 3, len(truth)).astype(float)
    times = np.repeat(np.arange(len(truth)), weight.astype(int))
    expected = metric.function(truth[times], predicted[times])
    assert metric.function(truth, predicted, weight=weight) == pytest.approx(expected, abs=1e-12)


def test_a_constant_is_targeting_at_random():
    """Qini 0 exactly, half the average effect as AUUC, the average effect at every share."""
    truth, _ = trial(500, 5)
    same = np.full((500, 1), 0.3)
    average = truth[truth[:, 1] == 1, 0].mean() - truth[truth[:, 1] == 0, 0].mean()
    assert METRICS["qini"].function(truth, same) == 0
    for seed in range(50):
        assert METRICS["qini"].function(trial(97 + seed, seed)[0], np.zeros((97 + seed, 1))) == 0
    assert METRICS["auuc"].function(truth, same) == pytest.approx(average / 2)
    assert METRICS["uplift_at_10"].function(truth, same) == pytest.approx(average)
    assert METRICS["ate_error"].function(truth, same) == pytest.approx(abs(0.3 - average))


def test_only_the_order_matters_to_a_ranking():
    """Any increasing function of the predictions ranks alike; the reverse is worse than chance where the model was better."""
    truth, predicted = trial(800, 6)
    value = METRICS["qini"].function(truth, predicted)
    assert METRICS["qini"].function(truth, np.exp(predicted / 2)) == pytest.approx(value, abs=1e-12)
    assert value > 0 > METRICS["qini"].function(truth, -predicted)


def test_several_treatments_are_each_compared_with_the_controls():
    """The figure is the mean over the treatments, each without the rows of the others."""
    truth, predicted = trial(900, 7, treatments=3)
    each = []
    for arm in (1, 2, 3):
        rows = (truth[:, 1] == 0) | (truth[:, 1] == arm)
        alone = truth[rows].copy()
        alone[:, 1] = alone[:, 1] > 0
        each.append(METRICS["qini"].function(alone, predicted[rows, arm - 1 : arm]))
    assert METRICS["qini"].function(truth, predicted) == pytest.approx(np.mean(each), abs=1e-12)
    assert len(list(arms(truth, predicted))) == 3


def test_a_constant_propensity_changes_nothing():
    """Every treated row stands for as many, and so does every control: the figures are ratios."""
    truth, predicted = trial(300, 8)
    declared = truth.copy()
    declared[:, 2] = np.where(truth[:, 1] == 1, 1 / 0.2, 1 / 0.8)
    for metric in UPLIFT:
        assert metric.function(declared, predicted) == pytest.approx(metric.function(truth, predicted), abs=1e-12)


def test_propensities_take_the_bias_of_an_unfair_draw_away():
    """Who has a large x was treated more often, and x raises the outcome: the plain difference is wrong, the weighted one is not."""
    random = np.random.default_rng(9)
    x = random.normal(size=40_000)
    chance = 1 / (1 + np.exp(-x))
    arm = (random.random(len(x)) < chance).astype(float)
    outcome = 2 * x + 1.0 * arm + random.normal(size=len(x))
    plain = Compared.of(actual(outcome, arm), x).average()
    weighted = Compared.of(actual(outcome, arm, 1 / np.where(arm == 1, chance, 1 - chance)), x).average()
    assert plain > 2
    assert weighted == pytest.approx(1.0, abs=0.1)


def test_an_arm_without_rows_is_no_number():
    """Neither in all the rows nor in the first of them."""
    truth, predicted = trial(50, 10)
    truth[:, 1] = 1
    with pytest.raises(DataError, match="no control rows"):
        METRICS["qini"].function(truth, predicted)
    truth[:, 1] = np.arange(50) < 25
    with pytest.raises(DataError, match="first 10% hold no control row"):
        METRICS["uplift_at_10"].function(truth, -np.arange(50.0)[:, None])


def test_without_an_effect_no_ranking_is_better_than_chance():
    """Over 400 trials in which the treatment does nothing, the mean Qini of a ranking is 0 within two standard errors."""
    found = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        x = random.normal(size=200)
        truth = actual(x + random.normal(size=200), random.integers(0, 2, 200))
        found.append(METRICS["qini"].function(truth, x[:, None]))
    assert abs(np.mean(found)) < 2 * np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.std(found) > 0.01
