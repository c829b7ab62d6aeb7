"""The leak matrix: whatever the options, what an origin sees does not change by a bit when everything after it becomes noise.

In the noisy panel are fifty copies of one series, each destroyed after another row; its window that ends there must be the one of
the whole series. So one pass proves fifty origins, and that no series sees into another.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from recipeline.timeseries import fills, smoothing, transforms
from recipeline_spline import cleaning, prepared
from recipeline_spline.cleaning import SplinePreprocessor

LOOKBACK, HORIZON, LENGTH, FIRST, ORIGINS = 8, 3, 72, 22, 50
SCALES = ("standard", "robust", "minmax", "log1p", "asinh", "none")
OUTLIERS = ("none", "hampel")
LEVELS = transforms.LEVELS


def line(rng):
    """One series with gaps, an outlier, and covariates that have gaps of their own."""
    values = 20 + 3 * np.sin(np.arange(LENGTH) / 2) + rng.normal(size=LENGTH)
    values[rng.random(LENGTH) < 0.25] = np.nan
    values[[15, 50]] = 400.0, 300.0
    values[30:36] = np.nan
    load = rng.normal(size=LENGTH)
    load[rng.random(LENGTH) < 0.2] = np.nan
    wind = np.where(rng.random(LENGTH) < 0.5, "N", "SE").astype(object)
    return pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=LENGTH, freq="h"), "target": values, "load": load, "wind": wind})


def panels(seed=0):
    """Fifty copies, whole and noisy; noisy series i knows the truth up to row FIRST + i."""
    rng = np.random.default_rng(seed)
    one = line(rng)
    whole, noisy = [], []
    for number in range(ORIGINS):
        copy = one.assign(series_id=f"s{number:02d}")
        whole.append(copy)
        after = np.arange(LENGTH) > FIRST + number
        wild = copy.copy()
        wild.loc[after, "target"] = np.where(rng.random(after.sum()) < 0.3, np.nan, rng.lognormal(3, 3, after.sum()))
        wild.loc[after, "load"] = np.where(rng.random(after.sum()) < 0.3, np.nan, rng.normal(scale=1e3, size=after.sum()))
        wild.loc[after, "wind"] = rng.choice(np.array(["N", "SE", "W", None], dtype=object), after.sum())
        noisy.append(wild)
    return pd.concat(whole, ignore_index=True), pd.concat(noisy, ignore_index=True)


def leaking(whole, noisy, **params):
    """The origins, of fifty, whose inputs differ; the preprocessor was fitted on what is before all of them."""
    before = whole.groupby("series_id").head(FIRST)
    made = SplinePreprocessor(outlier_window=10, smooth_strength=2.0, **params).introduce(LOOKBACK, HORIZON).fit(before)
    line, wild = made.history(whole.iloc[:LENGTH]), made.history(noisy)
    one = line.gather(FIRST + np.arange(ORIGINS), LOOKBACK, HORIZON)
    other = wild.gather(wild.starts + FIRST + np.arange(ORIGINS), LOOKBACK, HORIZON)
    assert np.isfinite(one.past).all()
    assert np.ptp(one.past[:, :, 0]) > 0
    names = ("past", "future", "static", "codes", "centre", "spread", "coverage")
    return [i for i in range(ORIGINS) if any(getattr(one, n)[i].tobytes() != getattr(other, n)[i].tobytes() for n in names)]


@pytest.fixture(scope="module")
def pair():
    return panels()


def combinations():
    """Every fill, smoothing, scale and outlier rule; levels, edges and longest gaps take turns (all of them: the slow test)."""
    for number, (fill, smooth, scale, outliers) in enumerate(product(fills.KINDS, smoothing.KINDS, SCALES, OUTLIERS)):
        yield {
            "fill": fill, "smooth": smooth, "scale": scale, "outliers": outliers, "level": LEVELS[(number + number // 12) % 3],
            "edge": ("carry", "damped_season")[number // 3 % 2], "max_fill": (None, 3)[number // 5 % 2],
        }  # fmt: skip


@pytest.mark.parametrize("fill", fills.KINDS)
def test_no_origin_sees_what_is_after_it(pair, fill):
    tried = [params for params in combinations() if params["fill"] == fill]
    assert len(tried) == 48
    assert {(p["scale"], p["level"]) for p in combinations()} == set(product(SCALES, LEVELS))
    for params in tried:
        assert leaking(*pair, calendar=["hour"], **params) == [], params


@pytest.mark.slow
@pytest.mark.parametrize("fill", fills.KINDS)
def test_no_origin_sees_what_is_after_it_at_any_level(pair, fill):
    others = product(smoothing.KINDS, SCALES, LEVELS, OUTLIERS, ("carry", "damped_season"), (None, 3))
    for smooth, scale, level, outliers, edge, longest in others:
        params = {"fill": fill, "smooth": smooth, "scale": scale, "level": level, "outliers": outliers, "edge": edge, "max_fill": longest}
        assert leaking(*pair, **params) == [], params


def centred(values, tau):
    """What must never be: a mean of both sides (the leak of a public pipeline that halved its error so)."""
    return pd.Series(values).rolling(int(2 * tau) + 1, center=True, min_periods=1).mean().to_numpy()


def test_a_centred_filter_is_caught(pair, monkeypatch):
    assert leaking(*pair, smooth="one_sided_exp") == []
    monkeypatch.setattr(smoothing, "one_sided_exp", centred)
    assert len(leaking(*pair, smooth="one_sided_exp")) >= ORIGINS - 5


def test_gaps_filled_with_what_comes_later_are_caught(pair, monkeypatch):
    monkeypatch.setattr(prepared.Prepared, "_as_seen", lambda *_: None)
    assert len(leaking(*pair)) > 5


def test_a_scale_that_knows_the_whole_series_is_caught(pair, monkeypatch):
    def scales(self, grid, believed):
        own = [transforms.scale_of(believed[grid.part(number)], "standard") for number in range(len(grid.lengths))]
        return np.array([s.shift for s in own]), np.array([s.scale for s in own]), grid.starts

    monkeypatch.setattr(cleaning.SplinePreprocessor, "_scales", scales)
    assert len(leaking(*pair)) >= ORIGINS - 5


def test_an_outlier_rule_that_looks_both_ways_is_caught(pair, monkeypatch):
    def both_ways(values, window, threshold):
        return np.abs(values - np.nanmean(values)) > 3 * np.nanstd(values)

    monkeypatch.setattr(cleaning, "hampel", both_ways)
    assert len(leaking(*pair, outliers="hampel")) >= 5


def test_a_series_unseen_in_training_has_no_origin_before_the_rows_of_its_scale(pair):
    """Its scale is taken from all it is known of; so the last row alone may be an origin."""
    whole, _ = pair
    made = SplinePreprocessor().introduce(LOOKBACK, HORIZON).fit(whole[whole.series_id == "s00"])
    ready = made.history(whole[whole.series_id.isin(["s00", "s01"])])
    origins = ready.origins(LOOKBACK, HORIZON, future=False)
    assert (ready.series_of(origins) == 0).sum() > 30
    assert origins[ready.series_of(origins) == 1].tolist() == [ready.last[1]]
    assert (ready.series_of(ready.origins(LOOKBACK, HORIZON, future=True)) == 0).all()
