"""The forecaster of recipes over a real daemon on a socket: what it learns, what it asks for, and what it says when nobody answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recipeline import recipe as recipes
from recipeline import settings
from recipeline.assemble import check
from recipeline.contracts import FitContext, Placed
from recipeline.errors import DataError, Refused, Unavailable
from recipeline.stores.places import Places
from recipeline.timeseries.frames import SERIES, TARGET, TIME, Layout
from recipeline.timeseries.transforms import back
from recipeline_tsfm.fake_tollama import FakeTollama
from recipeline_tsfm.histories import Histories, fixed
from recipeline_tsfm.model import REASON, TSFMForecaster
from tollama_daemon import running

PROJECT = Path(__file__).parents[3]
LOCAL = Places(PROJECT, PROJECT, environment="local")


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeTollama]:
    with running() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _honest(daemon: FakeTollama) -> None:
    daemon.set_faults()
    daemon.calls.clear()


def markets(
    ticks: int = 420, series: int = 4, *, seed: int = 0, start: str = "2026-02-17", noise: float = 0.06, phi: float = 0.95
) -> pd.DataFrame:
    """Prices: an AR(1) process in logit space, one in fifty not observed."""
    rng = np.random.default_rng(seed)
    stamps, pieces = pd.date_range(start, periods=ticks, freq="5min", tz="UTC"), []
    for number in range(series):
        x = np.zeros(ticks)
        for tick in range(1, ticks):
            x[tick] = phi * x[tick - 1] + 0.06 * rng.standard_normal()
        price = np.where(rng.random(ticks) < 0.02, np.nan, back(x, "logit"))
        pieces.append(pd.DataFrame({SERIES: f"m{number:x}", TIME: stamps, TARGET: price}))
    return pd.concat(pieces, ignore_index=True)


def forecaster(daemon: FakeTollama, **given) -> TSFMForecaster:
    return TSFMForecaster(**{"horizon": 6, "base_url": daemon.url, "places": LOCAL, "width": {"least": 0.0, "most": 1.0}, **given})


def asked(daemon: FakeTollama) -> int:
    """Series that the daemon has forecast."""
    return sum(len(call["series"]) for call in daemon.calls)


# --- fitting -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cqr", "scale", "tracking"])
def test_fit_asks_from_origins_inside_the_span_and_predict_is_calibrated(daemon, method, tmp_path):
    """100 origins, the last outcome `horizon` steps before the end; forecasts move by what was learned, and by nothing else."""
    X = markets()
    model = forecaster(daemon, conformal={"method": method, "coverage": 0.8, "window": 100})
    model.fit(X, context=FitContext(7, tmp_path))
    assert model.calibration_.counts == {"asked": 100, "answered": 100, "fallback": 0, "pooled": [], "by_rule": 0}
    assert asked(daemon) == 100
    ends = [pd.Timestamp(one["timestamps"][-1]) for call in daemon.calls for one in call["series"]]
    assert max(ends) == X[TIME].max() - 12 * pd.Timedelta("5min")
    said = model.predict(X)
    raw = forecaster(daemon, conformal={"method": "none"}).fit(X).predict(X)
    assert list(said.columns) == [SERIES, "step", "prediction", "q0.1", "q0.5", "q0.9", REASON]
    assert (said[REASON] == "").all()
    expected = model.calibration_.apply((0.1, 0.5, 0.9), raw.loc[raw[SERIES] == "m0", ["q0.1", "q0.5", "q0.9"]].to_numpy(), {})
    np.testing.assert_array_equal(said.loc[said[SERIES] == "m0", ["q0.1", "q0.5", "q0.9"]], np.clip(expected, 0, 1))
    assert not np.allclose(said["q0.1"], raw["q0.1"])


def test_coverage_on_another_day_is_what_was_asked_for(daemon):
    """Calibrated on one day of 12 markets, judged at 25 origins of the next: the mean within .03 where raw is far off.

    Standard error of the mean over 300 dependent forecasts of 6 steps: about .014.
    """
    model = forecaster(daemon, conformal={"method": "cqr", "coverage": 0.8, "window": 300}).fit(markets(600, 12, seed=1, phi=0.6))
    day = markets(600, 12, seed=2, start="2026-03-01", phi=0.6)
    raw = forecaster(daemon, conformal={"method": "none"}).fit(day)
    hits = {"calibrated": [], "raw": []}
    for origin in range(100, 580, 20):
        history = day[day.groupby(SERIES).cumcount() < origin]
        came = day[(day.groupby(SERIES).cumcount() >= origin) & (day.groupby(SERIES).cumcount() < origin + 6)][TARGET].to_numpy()
        for name, one in (("calibrated", model), ("raw", raw)):
            said = one.predict(history)
            inside = (came >= said["q0.1"].to_numpy()) & (came <= said["q0.9"].to_numpy())
            hits[name].append(inside[~np.isnan(came)].mean())
    assert np.mean(hits["calibrated"]) == pytest.approx(0.8, abs=0.03)
    assert abs(np.mean(hits["raw"]) - 0.8) > 0.05


def test_trials_over_the_calibration_ask_once(daemon, tmp_path):
    """Another method, another window: not one call more, neither in fit nor in predict; another horizon asks anew."""
    X = markets()
    context = FitContext(7, tmp_path, shared=tmp_path / "shared")
    forecaster(daemon, conformal={"window": 100}).fit(X, context=context).predict(X)
    before = len(daemon.calls)
    assert asked(daemon) == 104
    for conformal in ({"method": "scale", "window": 100}, {"window": 60}, {"method": "tracking", "window": 100, "rate": 0.1}):
        forecaster(daemon, conformal=conformal).fit(X, context=context).predict(X)
    assert len(daemon.calls) == before
    forecaster(daemon, horizon=5, conformal={"window": 100}).fit(X, context=context)
    assert len(daemon.calls) > before


def test_rows_that_are_held_back_are_the_ones_that_calibrate(daemon, tmp_path):
    """With calibration_size no origin lies before the held-back rows."""
    X = markets()
    border = X[TIME].iloc[300]
    from recipeline.contracts import Selected

    held = X[X[TIME] >= border]
    context = FitContext(7, tmp_path, validation=Selected(X=held))
    forecaster(daemon, conformal={"window": 60}).fit(X[X[TIME] < border], context=context)
    ends = [pd.Timestamp(one["timestamps"][-1]) for call in daemon.calls for one in call["series"]]
    assert min(ends) >= border - pd.Timedelta("5min")


def test_groups_of_markets_are_calibrated_apart_and_low_ones_never_asked(daemon):
    """liquidity_bucket decides: a group has its own amounts, and `low` is answered by rule, counted, not a failure."""
    X = markets(series=6)
    X["liquidity_bucket"] = X[SERIES].map({"m0": "high", "m1": "high", "m2": "mid", "m3": "mid", "m4": "low", "m5": "low"})
    layout = Layout("5min", 288, static=("liquidity_bucket",))
    model = forecaster(daemon, conformal={"window": 60, "group_by": ["liquidity_bucket"]})
    model.layout = layout
    model.fit(X)
    assert set(model.calibration_.groups) == {"", "high", "mid"}
    assert model.calibration_.counts["by_rule"] > 0
    assert model.calibration_.counts["fallback"] == 0
    said = model.predict(X).groupby(SERIES)[REASON].first()
    assert said.tolist() == ["", "", "", "", "baseline_only_liquidity_bucket", "baseline_only_liquidity_bucket"]


def test_covariates_reach_the_daemon(daemon):
    """Past ones with the history, future ones for the steps to forecast."""
    X = markets(200, 2)
    X["volume"], X["holiday"] = np.arange(len(X), dtype=float), 1.0
    model = forecaster(daemon, conformal={"method": "none"})
    model.layout = Layout("5min", 288, past=("volume",), future=("holiday",))
    X.loc[X.groupby(SERIES).cumcount() >= 194, [TARGET, "volume"]] = np.nan
    model.fit(X).predict(X)
    (one, _) = daemon.calls[-1]["series"]
    assert pd.Timestamp(one["timestamps"][-1]) == X[TIME].iloc[193]
    assert set(one["past_covariates"]) == {"volume", "holiday"}
    assert one["past_covariates"]["volume"][-1] == 193.0
    assert one["future_covariates"] == {"holiday": [1.0] * 6}


# --- nobody answers --------------------------------------------------------------------------------------------------------------


def test_without_a_server_fit_names_it_and_predict_is_flagged(tmp_path):
    """Exit 6; what is kept of fallbacks is nothing, so that a server that comes back is asked."""
    X = markets(200, 2)
    model = TSFMForecaster(6, base_url="http://127.0.0.1:9", places=LOCAL, conformal={"window": 40})
    context = FitContext(7, tmp_path, shared=tmp_path / "shared")
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 did not answer \d+ of \d+ calibration origins") as refused:
        model.fit(X, context=context)
    assert refused.value.code == 6
    assert not list((tmp_path / "shared").rglob("*.json"))
    said = model.predict(X)
    assert said[REASON].str.startswith(("upstream_unreachable", "circuit_open")).all()
    assert np.isfinite(said[["q0.1", "q0.5", "q0.9"]]).all(axis=None)


def test_up_to_a_fifth_of_failures_is_left_out_and_counted_and_more_fails(daemon):
    """One bad call of several; then a daemon that answers nothing but garbage."""
    X = markets(420, 4)
    given = {"conformal": {"window": 100}, "batch": {"series": 10, "calls": 1}, "breaker": {"failures": 50, "rate": None}}
    daemon.set_faults("nan:1")
    model = forecaster(daemon, **given).fit(X)
    assert 0 < model.calibration_.counts["fallback"] <= 20
    assert model.calibration_.counts["answered"] == 100 - model.calibration_.counts["fallback"]
    daemon.set_faults("nan")
    with pytest.raises(Unavailable, match=r"did not answer 100 of 100 .*invalid_payload"):
        forecaster(daemon, **given).fit(X)


def test_points_without_quantiles_are_calibrated_too(daemon):
    """A family that gives means only: the quantiles around them are put right, and residuals are not put on top."""
    model = forecaster(daemon, conformal={"window": 100})
    daemon.set_faults("no_quantiles")
    model.fit(markets())
    assert model.calibration_.residuals((0.1, 0.5, 0.9), 6, {}) is None
    assert model.calibration_.counts["answered"] == 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda X: X.head(30), "too short to calibrate"),
        (lambda X: X.assign(**{TARGET: X[TARGET] + 1}), "has no place in transform.space logit"),
    ],
)
def test_series_that_cannot_be_asked_about_are_a_data_error(daemon, change, said):
    with pytest.raises(DataError, match=said):
        forecaster(daemon, conformal={"window": 60}).fit(change(markets(200, 1)))


def test_a_series_that_was_not_seen_for_the_whole_lookback_is_named(daemon):
    X = markets(200, 2)
    X.loc[(X[SERIES] == "m1") & (X.groupby(SERIES).cumcount() > 10), TARGET] = np.nan
    with pytest.raises(DataError, match="series 'm1' has no observed value among its last 50"):
        forecaster(daemon, lookback=50, conformal={"method": "none"}).fit(X).predict(X)


@pytest.mark.parametrize(
    ("freq", "told"), [("5min", "5min"), ("h", "1h"), ("D", "1D"), ("90s", "90s"), ("7D", "7D"), ("60min", "1h"), ("300s", "5min")]
)
def test_steps_are_told_in_words_that_the_daemon_understands(freq, told):
    assert fixed(freq) == told


@pytest.mark.parametrize("freq", ["ME", "W-SAT", "B", 5.0, "1ms"])
def test_steps_of_no_one_length_are_refused(freq):
    with pytest.raises(DataError) as refused:
        fixed(freq)
    assert refused.value.slug == "bad-freq"


# --- kept and settled ---------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_json_and_says_nothing_of_the_place(daemon, tmp_path):
    """Saved, loaded and saved again the same; neither address nor token is in it; the loaded one is told them again."""
    X = markets()
    model = forecaster(daemon, token="s3cret-token", conformal={"window": 60, "group_by": ["category"]}).fit(X)
    first, second = tmp_path / "first", tmp_path / "second"
    model.save(first)
    read = TSFMForecaster.load(first)
    read.save(second)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["calibration.json", "forecaster.json"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert "s3cret" not in (first / name).read_text()
        assert daemon.url not in (first / name).read_text()
        json.loads((first / name).read_text())
    assert isinstance(read, Placed)
    read.settle(base_url=daemon.url, places=LOCAL)
    pd.testing.assert_frame_equal(read.predict(X), model.predict(X), check_exact=True)
    assert "s3cret" not in repr(model)
    with pytest.raises(TypeError):
        model.__getstate__()


def test_a_model_that_may_not_be_used_here_is_refused_at_every_use(daemon, tmp_path):
    """Fitted in dev, loaded in prod: fit, predict and the start of a server refuse it."""
    X = markets(200, 2)
    dev = Places(PROJECT, PROJECT, environment="dev")
    model = forecaster(daemon, model="moirai", places=dev, conformal={"method": "none"}).fit(X)
    model.predict(X)
    model.save(tmp_path / "kept")
    read = TSFMForecaster.load(tmp_path / "kept")
    for environment in ("prod", "staging", ""):
        read.settle(base_url=daemon.url, places=Places(PROJECT, PROJECT, environment=environment))
        for use in (lambda: read.predict(X), lambda: read.fit(X)):
            with pytest.raises(Refused) as refused:
                use()
            assert refused.value.slug == "license_not_allowed"


def test_the_server_s_own_licence_holds_where_it_is_stricter(tmp_path):
    """A list that calls a non-commercial model commercial: after the daemon was heard, prod gets no answer of it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tsfm_models.yaml").write_text(
        "models: {mine: {model_name: moirai-2.0-R-small, license_tag: commercial_ok}}\nenvironments: {prod: {allowed_models: [mine]}}\n"
    )
    with running() as fake:
        model = TSFMForecaster(6, model="mine", base_url=fake.url, places=Places(tmp_path, tmp_path, environment="prod"))
        with pytest.raises(Refused, match=r"as the server's licence 'cc-by-nc-4\.0' says"):
            model.fit(markets(200, 2))


# --- what is checked before any data are read -----------------------------------------------------------------------------------------


def problems(hyperparameters: str, config: str = "", *, environment: str = "local", tmp_path: Path) -> list:
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "base.yaml").write_text(config)
    (tmp_path / "config" / f"{environment}.yaml").write_text("")
    text = (
        f"name: r\nmodel:\n  class_path: tsfm\n  hyperparameters: {hyperparameters}\n  loader: {{source_uri: x.csv}}\n"
        "  data_interface: {task_type: forecasting, target_col: y, timestamp_col: t, freq: 5min}\n"
    )
    configured = settings.load(project=tmp_path, environment=environment, environ={})
    return check(recipes.draft(text), configured)


@pytest.mark.parametrize(
    ("hyperparameters", "key", "said"),
    [
        ("{horizon: 0}", "model.hyperparameters.horizon", "from 1 to 4096"),
        ("{quantiles: [0.9, 0.1]}", "model.hyperparameters.quantiles", "ascending"),
        ("{quantiles: [0.1, 0.5]}", "model.hyperparameters.quantiles", "no pair of the quantiles"),
        ("{conformal: {coverage: 0.9}}", "model.hyperparameters.conformal.coverage", "add the quantiles 0.05 and 0.95"),
        ("{conformal: {group_by: [colour]}}", "model.hyperparameters.conformal.group_by", "category, liquidity_bucket, tte_bucket"),
        ("{transform: {space: probit}}", "model.hyperparameters.transform.space", "probit"),
        ("{fallback: {min_point: 3}}", "model.hyperparameters.fallback.min_point", "min_points"),
        ("{fallback: {method: naive}}", "model.hyperparameters.fallback.method", "ewma"),
        ("{width: {least: 0.7}}", "model.hyperparameters.width", "0.7 is more than most 0.6"),
        ("{model: moirei}", "model.hyperparameters.model", "moirai"),
        ("{options: {base_url: x}}", "model.hyperparameters.options", "base_url"),
        ("{base_url: 'http://x'}", "model.hyperparameters.base_url", "parts.model.tsfm"),
        ("{token: x}", "model.hyperparameters.token", "parts.model.tsfm"),
    ],
)  # fmt: skip
def test_mistakes_of_a_recipe_are_said_with_their_key(tmp_path, hyperparameters, key, said):
    found = problems(hyperparameters, tmp_path=tmp_path)
    assert any(one.line == 4 and said in str(one) and key in str(one) for one in found), [str(one) for one in found]


def test_mistakes_of_the_configuration_are_said_at_its_lines(tmp_path):
    config = "parts:\n  model:\n    tsfm:\n      base_url: 'http://u:p@x'\n      breaker: {failure: 3}\n      warm_up: [nobody]\n"
    found = problems("{}", config, tmp_path=tmp_path)
    assert [(Path(one.file).name, one.line) for one in found] == [("base.yaml", 4), ("base.yaml", 5), ("base.yaml", 6)]
    assert "u:p@" not in "".join(map(str, found))


def test_validation_refuses_a_model_that_the_environment_does_not_allow(tmp_path):
    """prod and an unknown APP_ENV: exit 4, at the line of the model; dev: nothing."""
    assert problems("{model: moirai}", environment="dev", tmp_path=tmp_path) == []
    for environment in ("prod", "staging"):
        (found,) = problems("{model: moirai}", environment=environment, tmp_path=tmp_path)
        assert (found.slug, found.exit_code, found.line) == ("license_not_allowed", 4, 4)


def test_the_moments_of_a_history_and_its_segment(tmp_path):
    """The segment is what the market was at the origin, not what it became."""
    X = markets(40, 1)
    X["tte_bucket"] = np.where(np.arange(40) < 20, "week", "day")
    sight = Histories.of(X, Layout("5min", 288, past=("tte_bucket",)))
    assert sight.segment(0, 10) == {"tte_bucket": "week"}
    assert sight.segment(0, 30) == {"tte_bucket": "day"}
    assert sight.columns == ()
