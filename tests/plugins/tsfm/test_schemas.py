"""The bodies of the routes: what is of the wrong shape, what does not fit together, and what is said of keys nobody knows."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import ValidationError

from recipeline.errors import UsageError
from recipeline_tsfm.schemas import Defaults, TSFMForecastRequest, question, response
from recipeline_tsfm.seams import ForecastAnswer, Meta

SEED = {
    "market_id": "m-1",
    "as_of_ts": "2026-02-20T12:00:00Z",
    "freq": "5m",
    "horizon_steps": 12,
    "quantiles": [0.1, 0.5, 0.9],
    "y": [0.41, 0.42, 0.40, 0.43],
    "transform": {"space": "logit", "eps": 1e-6},
    "model": {"provider": "tollama", "model_name": "chronos", "params": {"temperature": 0.0}},
}


def asked(defaults: Defaults | None = None, **changes):
    body = {name: value for name, value in {**SEED, **changes}.items() if value is not ...}
    return question(TSFMForecastRequest.model_validate_json(json.dumps(body)), defaults or Defaults())


def test_the_seeds_body_is_the_question_it_means():
    """5m are minutes; the path ends at as_of; nothing is ignored."""
    found = asked()
    assert found.freq == "5min"
    assert found.as_of == np.datetime64("2026-02-20T12:00:00", "ns")
    assert (found.horizon, found.quantiles, found.space, found.eps, found.model) == (12, (0.1, 0.5, 0.9), "logit", 1e-6, "chronos")
    assert dict(found.options) == {"temperature": 0.0}
    assert found.target.tolist() == SEED["y"]
    assert found.warnings == ()


def test_what_is_left_out_is_as_the_recipe_says():
    """Horizon, quantiles, step, transform, model, its options and the gap limit; another model gets no options of ours."""
    defaults = Defaults("timesfm", 7, (0.2, 0.8), "15min", "identity", 1e-3, (("temperature", 1.0),), 30.0)
    found = asked(defaults, freq=..., horizon_steps=..., quantiles=..., transform=..., model=...)
    assert (found.model, found.horizon, found.quantiles, found.freq, found.space, found.eps) == (
        "timesfm",
        7,
        (0.2, 0.8),
        "15min",
        "identity",
        1e-3,
    )
    assert dict(found.options) == {"temperature": 1.0}
    assert found.max_gap_minutes == 30.0
    assert dict(asked(defaults).options) == {"temperature": 0.0}
    assert dict(asked(defaults, model={"model_name": "chronos"}).options) == {}
    assert asked(defaults, transform={"space": "logit"}).eps == 1e-3
    with pytest.raises(UsageError, match="freq: is missing"):
        asked(freq=...)


def test_keys_nobody_knows_are_ignored_and_named():
    found = asked(extra=1, transform={"space": "logit", "epsilon": 2}, model={"model_name": "chronos", "temperature": 0})
    assert found.warnings == ("ignored key extra", "ignored key model.temperature", "ignored key transform.epsilon")
    many = asked(**{f"k{number:02d}": 0 for number in range(30)})
    assert len(many.warnings) == 21
    assert many.warnings[-1] == "ignored 10 more keys"


def test_quantiles_come_in_any_order_and_nulls_are_unknown():
    found = asked(quantiles=[0.9, 0.1, 0.5], y=[0.1, None, 0.3])
    assert found.quantiles == (0.1, 0.5, 0.9)
    assert np.isnan(found.target).tolist() == [False, True, False]


def test_a_time_without_zone_is_utc_and_another_zone_is_converted():
    assert "as_of_ts has no zone, taken for UTC" in asked(as_of_ts="2026-02-20T12:00:00").warnings
    assert asked(as_of_ts="2026-02-20T21:00:00+09:00").as_of == np.datetime64("2026-02-20T12:00:00")


def test_covariates_times_and_segments_reach_the_question():
    found = asked(
        y_ts=["2026-02-20T11:40:00Z", "2026-02-20T11:45:00Z", "2026-02-20T11:50:00Z", "2026-02-20T12:00:00Z"],
        x_past={"volume": [1, 2, None, 4]}, horizon_steps=2, x_future={"volume": [5, 6]},
        liquidity_bucket="low", category="politics", tte_bucket="week", max_gap_minutes=15,
    )  # fmt: skip
    assert found.timestamps[-1] == found.as_of
    assert found.future_covariates["volume"].tolist() == [5, 6]
    assert dict(found.segment) == {"liquidity_bucket": "low", "category": "politics", "tte_bucket": "week"}
    assert found.max_gap_minutes == 15.0


SHAPES = {
    "no market": {"market_id": ...},
    "market of 201": {"market_id": "m" * 201},
    "market with NUL": {"market_id": "m\x00"},
    "market a number": {"market_id": 7},
    "no time": {"as_of_ts": ...},
    "time as number": {"as_of_ts": 1771588800},
    "time as numeric text": {"as_of_ts": "1771588800"},
    "time as date": {"as_of_ts": "2026-02-20"},
    "no such time": {"as_of_ts": "2026-02-30T12:00:00Z"},
    "freq 0m": {"freq": "0m"},
    "freq ME": {"freq": "1ME"},
    "freq negative": {"freq": "-5m"},
    "freq arabic digits": {"freq": "\u0665m"},
    "horizon 0": {"horizon_steps": 0},
    "horizon 4097": {"horizon_steps": 4097},
    "horizon 1.5": {"horizon_steps": 1.5},
    "horizon text": {"horizon_steps": "12"},
    "horizon true": {"horizon_steps": True},
    "no quantile": {"quantiles": []},
    "100 quantiles": {"quantiles": [number / 101 for number in range(1, 101)]},
    "quantile 0": {"quantiles": [0, 0.5]},
    "quantile 1": {"quantiles": [0.5, 1]},
    "quantile twice": {"quantiles": [0.5, 0.5]},
    "quantile text": {"quantiles": ["0.5"]},
    "y empty": {"y": []},
    "y one": {"y": [0.5]},
    "y text": {"y": [0.5, "0.6"]},
    "y bool": {"y": [0.5, True]},
    "y nested": {"y": [[0.5], 0.6]},
    "y too long": {"y": [0.5] * 20_001},
    "65 covariates": {"x_past": {f"x{number}": [1, 2, 3, 4] for number in range(65)}},
    "space": {"transform": {"space": "probit"}},
    "eps 0": {"transform": {"eps": 0}},
    "eps 0.5": {"transform": {"eps": 0.5}},
    "provider": {"model": {"provider": "openai"}},
    "model name empty": {"model": {"model_name": ""}},
    "params a list": {"model": {"params": []}},
    "gap 0": {"max_gap_minutes": 0},
    "category too long": {"category": "c" * 65},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_a_body_of_the_wrong_shape_is_no_request(changes):
    """HTTP 422."""
    with pytest.raises(ValidationError):
        asked(**changes)


MISFITS = {
    "y out of logit": ({"y": [0.5, 1.5]}, r"y\[1\]: 1\.5 lies outside of 0 to 1"),
    "y below log1p": ({"y": [0.5, -1], "transform": {"space": "log1p"}}, r"y\[1\]: -1 is not above -1"),
    "y huge": ({"y": [0.5, 1e300], "transform": {"space": "identity"}}, "larger than any"),
    "y all null": ({"y": [None, None]}, "only nulls"),
    "y_ts short": ({"y_ts": ["2026-02-20T11:00:00Z", "2026-02-20T12:00:00Z"]}, "2 times for 4 values"),
    "y_ts back": ({"y": [0.1, 0.2], "y_ts": ["2026-02-20T11:00:00Z", "2026-02-20T10:00:00Z"]}, r"y_ts\[1\]: is not after"),
    "y_ts late": ({"y": [0.1, 0.2], "y_ts": ["2026-02-20T11:00:00Z", "2026-02-20T13:00:00Z"]}, "after as_of_ts"),
    "x_past short": ({"x_past": {"v": [1]}}, "1 values, and y has 4"),
    "x_future alone": ({"x_future": {"v": [1] * 12}}, "its past is not in x_past"),
    "x_future short": ({"x_past": {"v": [1] * 4}, "x_future": {"v": [1]}}, "1 values for 12 steps"),
    "x_future null": ({"x_past": {"v": [1] * 4}, "x_future": {"v": [None] * 12}}, "null at step 1"),
    "params model": ({"model": {"params": {"model": "other"}}}, "model cannot be chosen"),
    "params deep": ({"model": {"params": {"a": [{"base_url": "http://x"}]}}}, "base_url cannot be chosen"),
    "year 0001": ({"as_of_ts": "0001-01-01T00:00:00+23:00"}, "year 1 is out of"),
    "year 9999": ({"as_of_ts": "9999-12-31T23:59:59-23:00"}, "year 9999 is out of"),
    "step of a century": ({"freq": "99999W"}, "no sampling interval"),
    "horizon of centuries": ({"freq": "52W", "horizon_steps": 4096}, "more than a hundred years"),
}


@pytest.mark.parametrize(("changes", "said"), MISFITS.values(), ids=MISFITS.keys())
def test_parts_that_do_not_fit_together_are_refused_with_their_field(changes, said):
    """HTTP 400."""
    with pytest.raises(UsageError, match=said) as refused:
        asked(**changes)
    assert refused.value.slug == "bad-request"
    assert refused.value.hint


def test_an_answer_becomes_its_body():
    """Paths by level, all steps and the last one calibrated; JSON has every digit and no NaN."""
    request = asked(horizon_steps=2)
    path = np.array([[0.1, 0.2, 0.3], [0.11, 0.21, 0.31]])
    meta = Meta(
        runtime="tollama", model_name="chronos2", model_version=None, latency_ms=1.5, input_len=4, transform="logit", warnings=("w x2",)
    )
    body = response(request, ForecastAnswer(quantiles=(0.1, 0.5, 0.9), path=path, conformal=path + 0.01, meta=meta))
    told = json.loads(body.model_dump_json())
    assert told["yhat_q"] == {"0.1": [0.1, 0.11], "0.5": [0.2, 0.21], "0.9": [0.3, 0.31]}
    assert told["conformal_last_step"] == {"0.1": 0.11 + 0.01, "0.5": 0.21 + 0.01, "0.9": 0.31 + 0.01}
    assert told["conformal_yhat_q"]["0.9"][1] == told["conformal_last_step"]["0.9"]
    assert told["as_of_ts"] == "2026-02-20T12:00:00Z"
    assert datetime.fromisoformat(told["as_of_ts"]) == datetime(2026, 2, 20, 12, tzinfo=UTC)
    assert told["meta"]["fallback_reason"] is None
    assert told["meta"]["warnings"] == ["w x2"]
    bare = response(request, ForecastAnswer(quantiles=(0.1, 0.5, 0.9), path=path, conformal=None, meta=meta))
    assert bare.conformal_yhat_q is None
    assert bare.conformal_last_step is None
