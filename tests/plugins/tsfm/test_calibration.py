"""Calibration against two libraries, by hand, and on a process whose right answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench import tsfm_calibration
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline.errors import DataError
from recipeline_tsfm.calibration import ConformalCalibration, Windows, calibrate, centre_of, group_of
from recipeline_tsfm.seams import Calibration

LEVELS = (0.1, 0.5, 0.9)


def windows(n: int = 200, horizon: int = 3, *, seed: int = 0, levels=LEVELS, spread: float = 0.05, **rest) -> Windows:
    """From every step of an AR(1) series about 0.5: forecasts of its mean, with intervals that are far too narrow."""
    rng = np.random.default_rng(seed)
    x = np.zeros(n + horizon)
    for t in range(1, len(x)):
        x[t] = 0.7 * x[t - 1] + rng.normal(0, 0.04)
    centre = 0.5 + x[:n, None] * 0.7 ** np.arange(1, horizon + 1)
    path = centre[:, :, None] + spread * (np.array(levels) - 0.5)[None, None, :]
    actual = 0.51 + np.lib.stride_tricks.sliding_window_view(x[1:], horizon)[:n]
    return Windows(tuple(levels), path, np.array(actual), np.arange(n), np.full(n, "a"), **rest)


# --- oracles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0.5, 0.75, 0.875])
def test_on_points_cqr_is_the_conformal_regressor_of_crepes(coverage):
    """With all levels at the point, the ends are those of split conformal: crepes, n = 127, where its rank is whole."""
    crepes = pytest.importorskip("crepes")
    levels = ((1 - coverage) / 2, 0.5, (1 + coverage) / 2)
    given_ = windows(127, 2, levels=levels, spread=0.0)
    state = calibrate(given_, coverage=coverage, window=None)
    point = np.array([[0.3], [0.6]])
    moved = state.apply(levels, np.repeat(point, 3, axis=1), {})
    for step in range(2):
        oracle = crepes.ConformalRegressor().fit(np.abs(given_.actual - given_.path[:, :, 1])[:, step])
        (ends,) = oracle.predict_int(point[step], confidence=coverage)
        np.testing.assert_allclose(moved[step, [0, 2]], ends, rtol=0, atol=1e-12)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_cqr_is_the_conformalized_quantile_regressor_of_mapie(coverage):
    """One step: MAPIE's own class, prefitted with estimators that repeat the forecasts, gives the same ends."""
    from mapie.regression import ConformalizedQuantileRegressor
    from sklearn.base import BaseEstimator, RegressorMixin

    class Repeats(RegressorMixin, BaseEstimator):
        """Gives back a column: the forecast of one level."""

        def __init__(self, column: int = 0):
            self.column = column

        def fit(self, X, y=None):
            self.n_features_in_, self.fitted_ = X.shape[1], True
            return self

        def predict(self, X):
            return np.asarray(X)[:, self.column]

    levels = ((1 - coverage) / 2, 0.5, (1 + coverage) / 2)
    given_ = windows(137, 1, levels=levels)
    state = calibrate(given_, coverage=coverage, window=None)
    known, new = given_.path[:, 0, :], np.array([[0.2, 0.25, 0.4], [0.6, 0.61, 0.62]])
    parts = [Repeats(column).fit(known) for column in (0, 2, 1)]  # lower, upper, median
    oracle = ConformalizedQuantileRegressor(parts, confidence_level=coverage, prefit=True)
    oracle.conformalize(known, given_.actual[:, 0])
    _, ends = oracle.predict_interval(new, symmetric_correction=True)
    for row in range(2):
        mine = state.apply(levels, new[row : row + 1], {})
        np.testing.assert_allclose(mine[0, [0, 2]], np.ravel(ends[row]), rtol=0, atol=1e-12)


def test_scale_is_its_definition():
    """Shift: the median residual of all steps. Factor: the ceil((n + 1) c)-th smallest |rest| over the half-width."""
    given_ = windows(50, 2)
    state = calibrate(given_, method="scale", coverage=0.8)
    residual = (given_.actual - given_.path[:, :, 1]).ravel()
    shift = np.median(residual)
    rest = np.sort(np.abs(residual - shift) / ((given_.path[:, :, 2] - given_.path[:, :, 0]).ravel() / 2))
    factor = rest[int(np.ceil(101 * 0.8)) - 1]
    np.testing.assert_allclose(state.apply(LEVELS, [[0.4, 0.5, 0.6]], {})[0], 0.5 + shift + factor * np.array([-0.1, 0, 0.1]), atol=1e-12)


# --- coverage where it is known --------------------------------------------------------------------------------------------


def test_coverage_of_an_ar1_process_in_logit_space_per_step_and_after_a_shift():
    """Raw .73; rolling cqr and tracking within .02 of .80 at every step; the mean after the noise grew within .015.

    Two seeds; `python -m bench.tsfm_calibration` has twenty.
    """
    told = tsfm_calibration.measure(2)
    assert told["none"]["before"] == pytest.approx(0.73, abs=0.03)
    for method in ("cqr", "tracking"):
        assert told[method]["lowest"] > 0.78
        assert told[method]["highest"] < 0.82
    assert told["scale"]["before"] == pytest.approx(0.79, abs=0.02)
    assert told["scale"]["after"] < told["cqr"]["after"] < told["tracking"]["after"]
    assert told["cqr"]["after"] == pytest.approx(0.8, abs=0.015)
    assert told["tracking"]["after"] == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("method", ["cqr", "tracking", "scale"])
def test_what_was_learned_holds_on_later_origins(method):
    """Learned once from 600 origins, judged on the next 600 of the same series: over ten series the mean within .02."""
    hits, raw = [], []
    for seed in range(10):
        given_ = windows(1200, 3, seed=seed)
        state = calibrate(given_.take(np.arange(600)), method=method, coverage=0.8, window=600)
        rest = given_.take(np.arange(600, 1200))
        moved = np.stack([state.apply(LEVELS, path, {}) for path in rest.path])
        hits.append(((rest.actual >= moved[:, :, 0]) & (rest.actual <= moved[:, :, 2])).mean())
        raw.append(((rest.actual >= rest.path[:, :, 0]) & (rest.actual <= rest.path[:, :, 2])).mean())
    assert np.mean(hits) == pytest.approx(0.8, abs=0.02)
    assert np.mean(raw) < 0.5


# --- what a calibration says -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=9, unique_by=lambda level: round(level, 3)),
    st.integers(1, 8),
    st.sampled_from(["cqr", "tracking", "scale"]),
    st.integers(0, 10**6),
)
def test_any_question_gets_an_ascending_finite_path_of_its_shape(levels, horizon, method, seed):
    """Levels that were not calibrated, one-sided ones, a longer horizon, crossing inputs: finite and ascending, input untouched."""
    state = CALIBRATED[method]
    rng = np.random.default_rng(seed)
    path = np.sort(rng.random((horizon, len(levels))), axis=1)
    before = path.copy()
    moved = state.apply(sorted(levels), path, {})
    assert moved.shape == path.shape
    assert np.isfinite(moved).all()
    assert (np.diff(moved, axis=1) >= 0).all()
    np.testing.assert_array_equal(path, before)


CALIBRATED = {method: calibrate(windows(), method=method, coverage=0.8) for method in ("cqr", "tracking", "scale")}


def test_the_median_stays_and_other_levels_move_by_the_normal_ratio():
    """cqr leaves 0.5; a level of another coverage moves by the amount times z(c') / z(c); later steps as the last one."""
    state = CALIBRATED["cqr"]
    path = np.tile([0.3, 0.4, 0.5, 0.6, 0.7], (5, 1))
    levels = (0.05, 0.1, 0.5, 0.9, 0.95)
    moved = state.apply(levels, path, {})
    np.testing.assert_array_equal(moved[:, 2], 0.5)
    amount = path[:, 1] - moved[:, 1]
    assert amount[4] == amount[3] == amount[2] > amount[0] > 0
    np.testing.assert_allclose((path[:, 0] - moved[:, 0]) / amount, 1.6448536 / 1.2815516, rtol=1e-6)


def test_groups_have_their_own_amounts_and_small_ones_share():
    """Noise differs by liquidity; a group with four outcomes cannot tell 80 % and takes what all together learned."""
    segments = tuple({"liquidity_bucket": "high" if i % 2 else "mid"} for i in range(200))
    given_ = windows(200, 1, segments=(*segments[:196], *[{"liquidity_bucket": "new"}] * 4))
    noisy = given_.actual + np.where(np.arange(200) % 2, 0.3, 0.0)[:, None]
    state = calibrate(Windows(LEVELS, given_.path, noisy, given_.times, given_.series, given_.segments), group_by=["liquidity_bucket"])
    widths = {name: np.ptp(state.apply(LEVELS, [[0.4, 0.5, 0.6]], {"liquidity_bucket": name})) for name in ("high", "mid", "new", "other")}
    assert widths["high"] > 2 * widths["mid"]
    assert widths["new"] == widths["other"]
    assert state.counts["pooled"] == ["new"]
    assert group_of({"liquidity_bucket": "high"}, ("category", "liquidity_bucket")) == ""


def test_residuals_turn_a_point_into_quantiles_or_say_that_they_cannot():
    """(H, Q) quantiles of what came minus the centre, within a plotting position of numpy's; None beyond what 9 outcomes show."""
    given_ = windows(500, 2)
    state = calibrate(given_, window=None)
    errors = given_.actual - centre_of(LEVELS, given_.path)
    found = state.residuals((0.1, 0.25, 0.9), 3, {})
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found[:2], np.quantile(errors, [0.1, 0.25, 0.9], axis=0, method="weibull").T, atol=1e-3)
    np.testing.assert_array_equal(found[2], found[1])
    assert calibrate(windows(9, 2)).residuals((0.05, 0.5), 2, {}) is None


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_too_few_outcomes_name_the_minimum():
    """n (1 - coverage) >= 1: at 80 % five, at 95 % twenty; an outcome that was not observed does not count."""
    with pytest.raises(DataError, match=r"4 calibration scores are too few for coverage 0\.8: at least 5 are needed"):
        calibrate(windows(4))
    with pytest.raises(DataError, match="at least 20"):
        calibrate(windows(19, levels=(0.025, 0.5, 0.975)), coverage=0.95)
    thin = windows(6)
    thin.actual[:2, 1] = np.nan
    with pytest.raises(DataError, match="4 calibration scores"):
        calibrate(thin)
    calibrate(windows(5))


def test_origins_of_the_fallback_are_left_out_and_counted_and_more_than_a_fifth_fails():
    """What the baseline missed by says nothing of the model."""
    good = windows(100)
    answered = np.ones(100, dtype=bool)
    answered[:20] = False
    spoilt = good.actual.copy()
    spoilt[:20] += 50
    state = calibrate(Windows(LEVELS, good.path, spoilt, good.times, good.series, answered=answered))
    clean = calibrate(good.take(np.arange(20, 100)))
    assert state.counts == {"asked": 100, "answered": 80, "fallback": 20, "pooled": []}
    np.testing.assert_array_equal(state.apply(LEVELS, [[0.4, 0.5, 0.6]], {}), clean.apply(LEVELS, [[0.4, 0.5, 0.6]], {}))
    answered[20] = False
    with pytest.raises(DataError, match="21 of 100 calibration origins were answered by the fallback") as refused:
        calibrate(Windows(LEVELS, good.path, spoilt, good.times, good.series, answered=answered))
    assert refused.value.slug == "too-many-fallbacks"


def test_a_coverage_that_no_pair_has_says_which_quantiles_to_add():
    with pytest.raises(DataError, match=r"no pair of the quantiles 0\.1, 0\.5, 0\.9 has coverage 0\.9") as refused:
        calibrate(windows(), coverage=0.9)
    assert refused.value.hint == "add the quantiles 0.05 and 0.95"


# --- state ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cqr", "tracking", "scale"])
def test_state_survives_json_to_the_last_bit(method):
    """The same key, the same JSON, the same answers; other data have another key."""
    state = CALIBRATED[method]
    text = json.dumps(state.to_json(), allow_nan=False)
    read = ConformalCalibration.from_json(json.loads(text))
    assert isinstance(read, Calibration)
    assert json.dumps(read.to_json()) == text
    assert read.key == state.key
    path = [[0.2, 0.5, 0.9], [0.3, 0.4, 0.5]]
    np.testing.assert_array_equal(read.apply(LEVELS, path, {}), state.apply(LEVELS, path, {}))
    assert calibrate(windows(seed=1), method=method).key != state.key


def test_feedback_moves_tracking_and_its_key_and_nothing_else():
    """A miss widens, later than its forecast by its step; the key changes with the state. cqr hears nothing."""
    state = calibrate(windows(), method="tracking")
    path, before, key = [[0.4, 0.5, 0.6]] * 3, state.apply(LEVELS, [[0.4, 0.5, 0.6]] * 3, {}), state.key
    state.issue("m", 1000, LEVELS, path, {})
    state.observe("other", 1001, 5.0, {})
    assert state.key == key
    state.observe("m", 1002, 5.0, {})  # step 2
    after = state.apply(LEVELS, path, {})
    assert after[1, 2] > before[1, 2]
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert state.key == f"{key}.1"
    still = CALIBRATED["cqr"]
    key = still.key
    still.issue("m", 1000, LEVELS, path, {})
    still.observe("m", 1001, 5.0, {})
    assert still.key == key


@pytest.mark.parametrize(
    "state",
    [
        {"target_coverage": 0.8, "quantile_level": 0.9, "center_shift": 0.03, "width_scale": 1.5, "sample_size": 100},
        {
            "schema_version": 1,
            "adjustment": {"target_coverage": 0.8, "quantile_level": 0.9, "center_shift": 0.03, "width_scale": 1.5, "sample_size": 100},
            "updated_at": "2026-02-20T00:00:00Z",
            "metadata": {"source": "old"},
        },
        {
            "default_adjustment": {"target_coverage": 0.8, "center_shift": 0.03, "width_scale": 1.5},
            "segments": {
                "politics|high|week": {"target_coverage": 0.8, "center_shift": 0.0, "width_scale": 2.0},
                "category=sports": {"target_coverage": 0.8, "center_shift": 0.0, "width_scale": 3.0},
                "low": {"adjustment": {"target_coverage": 0.8, "center_shift": 0.0, "width_scale": 4.0}},
            },
        },
    ],
)
def test_older_state_files_are_read(state):
    """Shift of the centre, factor of the half-width; the segment that names most of a market holds, else the default."""
    read = ConformalCalibration.from_json(state)
    path = [[0.4, 0.52, 0.6]]
    np.testing.assert_allclose(read.apply(LEVELS, path, {"category": "weather"}), [[0.55 - 0.15, 0.55, 0.55 + 0.15]])
    if "segments" in state:
        whole = {"category": "politics", "liquidity_bucket": "high", "tte_bucket": "week"}
        np.testing.assert_allclose(read.apply(LEVELS, path, whole), [[0.32, 0.52, 0.72]])
        np.testing.assert_allclose(read.apply(LEVELS, path, {"category": "sports", "liquidity_bucket": "high"}), [[0.22, 0.52, 0.82]])
        np.testing.assert_allclose(read.apply(LEVELS, path, {"liquidity_bucket": "low"}), [[0.12, 0.52, 0.92]])
    assert read.residuals(LEVELS, 1, {}) is None
    again = ConformalCalibration.from_json(json.loads(json.dumps(read.to_json())))
    np.testing.assert_array_equal(again.apply(LEVELS, path, {"category": "sports"}), read.apply(LEVELS, path, {"category": "sports"}))


@pytest.mark.parametrize(
    "state", [{}, {"adjustment": 3}, {"adjustment": {"center_shift": 0.0, "width_scale": -1.0, "target_coverage": 0.8}}]
)
def test_what_is_no_state_is_refused(state):
    with pytest.raises(DataError) as refused:
        ConformalCalibration.from_json(state)
    assert refused.value.slug == "bad-calibration"
